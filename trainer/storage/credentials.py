"""The application default credentials of this process for Google Cloud, with a wait while they are not available yet."""

import functools
import logging
import os
from typing import Any

from trainer.errors import LostService, UserError, brief

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 60.0
_LOGIN = "on your own machine run gcloud auth application-default login; on Google Cloud check the job's service account"


@functools.cache
def load() -> Any:
    """Returns google-auth's credentials, with a token.

    On a machine of Google Cloud they come from the metadata server. In the first seconds of a pod it may not answer, or refuse;
    this function tries for a minute.

    Raises:
      UserError: there are no credentials, or they are refused for good.
      LostService: the service that issues them did not answer for a minute.
    """
    import google.auth
    from google.api_core import exceptions as api_exceptions
    from google.api_core import retry
    from google.auth import exceptions
    from google.auth.transport.requests import Request
    from google.cloud import storage

    def obtain() -> Any:
        found, _ = google.auth.default(scopes=storage.Client.SCOPE)
        found.refresh(Request())
        return found

    def may_appear_later(error: BaseException) -> bool:
        if isinstance(error, exceptions.DefaultCredentialsError):
            return _has_metadata_server()
        return may_succeed_later(error)

    @functools.cache
    def tell_once() -> None:
        _log.warning("no credentials for Cloud Storage yet: trying for %.0f s", _WAIT_SECONDS)

    with_retries = retry.Retry(
        predicate=may_appear_later, initial=1.0, maximum=8.0, timeout=_WAIT_SECONDS, on_error=lambda _: tell_once()
    )
    try:
        return with_retries(obtain)()
    except (exceptions.GoogleAuthError, api_exceptions.RetryError) as error:
        cause = error.cause if isinstance(error, api_exceptions.RetryError) and error.cause else error
        if isinstance(cause, exceptions.DefaultCredentialsError):
            raise UserError(f"no credentials for Cloud Storage ({brief(cause)}): {_LOGIN}") from error
        if isinstance(cause, exceptions.RefreshError) and not may_succeed_later(cause):
            raise UserError(f"credentials for Cloud Storage were refused ({brief(cause)}): {_LOGIN}") from error
        raise LostService(
            f"no credentials for Cloud Storage for {_WAIT_SECONDS:.0f} s ({brief(cause)}): run the same command again"
        ) from error


def may_succeed_later(error: BaseException) -> bool:
    """Returns whether another try may get a token: the first one, or one that replaces an expired one.

    Args:
      error: the error of google-auth that the last try ended with.
    """
    from google.auth import exceptions

    if isinstance(error, exceptions.RefreshError):
        # google-auth does not mark it retryable when the metadata server does not answer, or refuses a pod that is not set up yet.
        return error.retryable or _has_metadata_server()
    return isinstance(error, exceptions.TransportError)


def identity() -> str:
    """Returns the account under which this process acts on Google Cloud, or a general phrase if the credentials do not name it."""
    return getattr(load(), "service_account_email", None) or "the account of the application default credentials"


def _has_metadata_server() -> bool:
    """Returns whether this is a machine of Google Cloud, without a setting for other credentials."""
    from google.auth.compute_engine import _metadata

    if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ or os.environ.get("NO_GCE_CHECK") == "true":
        return False
    is_set = any(name in os.environ for name in ("GCE_METADATA_HOST", "KUBERNETES_SERVICE_HOST", "CLOUD_ML_PROJECT_ID"))
    return is_set or _metadata.detect_gce_residency_linux()
