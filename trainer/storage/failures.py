"""What went wrong with Cloud Storage, in one line and an exit code: of Google's client, and of TensorFlow's."""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from trainer.errors import Ended, LostService, UserError
from trainer.storage import credentials
from trainer.storage.patience import patience


class Changed(Exception):
    """An object is not of the generation that was asked for: someone else has written it."""


@functools.cache
def retry() -> Any:
    """The `google.api_core.retry.Retry` of every request: longer pauses each time, with jitter, and a deadline."""
    from google.api_core.retry import Retry

    limits = patience()
    return Retry(predicate=may_pass, initial=limits.first_pause, maximum=limits.longest_pause, timeout=limits.deadline)


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: busy servers, connections that fail or break off, bodies that arrive damaged."""
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, InvalidResponse):
        return _is_busy(error.response.status_code)
    if isinstance(error, exceptions.GoogleAPICallError):
        return _is_busy(error.code)
    if isinstance(error, auth_exceptions.RefreshError):
        return error.retryable
    return isinstance(
        error,
        (
            ConnectionError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
            auth_exceptions.TransportError,
            DataCorruption,
        ),
    )


def _is_busy(status: int | None) -> bool:
    return status in (408, 429) or (status is not None and status >= 500)


@contextlib.contextmanager
def explained(uri: str, permission: str) -> Iterator[None]:
    """Turns the errors of Google's client within a block into errors of the contract.

    Args:
      uri: what is read or written there.
      permission: of Cloud Storage, that this takes.

    Raises:
      FileNotFoundError: there is no such object.
      Changed: a precondition does not hold.
      UserError: there is no such bucket, or this process may not do that.
      LostService: Cloud Storage did not answer in time.
    """
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.cloud.storage.exceptions import InvalidResponse

    try:
        yield
    except exceptions.RetryError as error:
        raise _lost(uri, error.cause or error) from error
    except exceptions.PreconditionFailed as error:
        raise Changed(uri) from error
    except (exceptions.GoogleAPICallError, InvalidResponse) as error:
        status = error.response.status_code if isinstance(error, InvalidResponse) else error.code
        if status == 412:
            raise Changed(uri) from error
        raise (_refused(uri, status, str(error), permission) or (_lost(uri, error) if _is_busy(status) else error)) from error
    except auth_exceptions.RefreshError as error:
        raise _no_token(uri, error) from error
    except Exception as error:
        if not may_pass(error):
            raise
        raise _lost(uri, error) from error


def of_tensorflow(error: BaseException) -> Ended | FileNotFoundError | None:
    """What an error of TensorFlow's client means, or None where it is about something else."""
    if not type(error).__module__.startswith("tensorflow"):
        return None
    message = str(getattr(error, "message", error))
    place = re.search(r"gs://[^\s'\";,]+", message)
    status = re.search(r"HTTP response code (\d+)", message)
    if not place or not (status or "retry attempts failed" in message):
        return None
    uri, code = place[0].rstrip(":.)"), int(status[1]) if status else None
    if code == 401:
        # Unlike Google's client TensorFlow keeps its token; a new process asks for a new one.
        return LostService(f"{uri}: Cloud Storage refuses the token, which a restart renews")
    refused = _refused(uri, code, message, "storage.objects.get or storage.objects.create")
    return refused or LostService(f"{uri}: Cloud Storage does not answer ({_first(message)}): run the same command again")


def _refused(uri: str, status: int | None, message: str, permission: str) -> Ended | FileNotFoundError | None:
    bucket = uri.removeprefix("gs://").partition("/")[0]
    if status == 404:
        if re.search(r"bucket does not exist|bucket.{0,80}not found", message, re.IGNORECASE):
            return UserError(
                f"{uri}: there is no bucket gs://{bucket}: mend the name, or make it with gcloud storage buckets create"
            )
        return FileNotFoundError(2, "there is no such object", uri)
    if status == 401:
        return UserError(f"{uri}: Cloud Storage refuses the credentials of {credentials.identity()}: give others")
    if status == 403:
        named = re.search(r"does not have (storage\.[\w.]+)", message)
        return UserError(
            f"{uri}: {credentials.identity()} lacks {named[1] if named else permission} on the bucket {bucket}: grant it, for "
            "example with the role roles/storage.objectUser, or choose another place"
        )
    return None


def _no_token(uri: str, error: Any) -> Ended:
    if error.retryable:
        return LostService(f"{uri}: no token for Cloud Storage ({credentials.brief(error)}): run the same command again")
    return UserError(f"{uri}: the credentials for Cloud Storage are refused ({credentials.brief(error)}): give others")


def _lost(uri: str, error: BaseException) -> LostService:
    return LostService(f"{uri}: Cloud Storage does not answer ({credentials.brief(error)}): run the same command again")


def _first(message: str) -> str:
    return " ".join(message.split())[:300]
