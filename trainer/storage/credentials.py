"""Who this process is to Google Cloud: the application default credentials, waited for where they may come yet."""

import functools
import logging
import os
from typing import Any

from trainer.errors import LostService, UserError, brief

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 60.0
_LOGIN = "on your desk run gcloud auth application-default login, on Google Cloud look at the service account of the job"


@functools.cache
def load() -> Any:
    """Returns google-auth's credentials, with a token.

    On a machine of Google Cloud the metadata server gives them. In the first seconds of a pod it may not answer yet, or refuse: it
    is asked for a minute.

    Raises:
      UserError: there are none, or what there is is refused for good.
      LostService: whoever gives them did not answer for a minute.
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

    def missing_but_may_come(error: BaseException) -> bool:
        if isinstance(error, exceptions.DefaultCredentialsError):
            return _has_metadata_server()
        return may_come(error)

    @functools.cache
    def tell_once() -> None:
        _log.warning("no credentials for Cloud Storage yet: trying for %.0f s", _WAIT_SECONDS)

    patient = retry.Retry(
        predicate=missing_but_may_come, initial=1.0, maximum=8.0, timeout=_WAIT_SECONDS, on_error=lambda _: tell_once()
    )
    try:
        return patient(obtain)()
    except (exceptions.GoogleAuthError, api_exceptions.RetryError) as error:
        cause = error.cause if isinstance(error, api_exceptions.RetryError) and error.cause else error
        if isinstance(cause, exceptions.DefaultCredentialsError):
            raise UserError(f"there are no credentials for Cloud Storage ({brief(cause)}): {_LOGIN}") from error
        if isinstance(cause, exceptions.RefreshError) and not may_come(cause):
            raise UserError(f"the credentials for Cloud Storage are refused ({brief(cause)}): {_LOGIN}") from error
        raise LostService(f"no credentials for Cloud Storage could be had in {_WAIT_SECONDS:.0f} s ({brief(cause)})") from error


def may_come(error: BaseException) -> bool:
    """Whether a token that could not be had may be had yet: the first one, and each that replaces one that has run out."""
    from google.auth import exceptions

    if isinstance(error, exceptions.RefreshError):
        # Not called retryable: a metadata server that does not answer, or refuses a pod that is not set up yet.
        return error.retryable or _has_metadata_server()
    return isinstance(error, exceptions.TransportError)


def identity() -> str:
    """Names who this process is to Google Cloud, as far as the credentials tell."""
    return getattr(load(), "service_account_email", None) or "the account of the application default credentials"


def _has_metadata_server() -> bool:
    """Whether this machine is one of Google Cloud's, and is told nothing else about its credentials."""
    from google.auth.compute_engine import _metadata

    if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ or os.environ.get("NO_GCE_CHECK") == "true":
        return False
    told = any(name in os.environ for name in ("GCE_METADATA_HOST", "KUBERNETES_SERVICE_HOST", "CLOUD_ML_PROJECT_ID"))
    return told or _metadata.detect_gce_residency_linux()
