"""Turns the Cloud Storage errors of Google's client and of TensorFlow into one line and an exit code."""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from trainer.errors import Ended, LostService, UserError, brief
from trainer.storage import credentials
from trainer.storage.patience import patience

# With these permissions a 404 means that the bucket does not exist; the object may be absent.
_NEEDS_BUCKET = ("storage.buckets.get", "storage.objects.create", "storage.objects.list")

# Words in TensorFlow's messages, and the permission that the operation needs.
_PERMISSIONS = (
    ("when reading", "storage.objects.get"),
    ("upload", "storage.objects.create"),
    ("when deleting", "storage.objects.delete"),
    ("when renaming", "storage.objects.create"),
    ("when composing", "storage.objects.create"),
)


class Changed(Exception):
    """An object has another generation than the request demanded: another process has written it."""


@functools.cache
def retry() -> Any:
    """Returns the `google.api_core.retry.Retry` of every request: growing pauses with jitter, and a deadline."""
    from google.api_core.retry import Retry

    limits = patience()
    return Retry(predicate=is_transient, initial=limits.first_pause, maximum=limits.longest_pause, timeout=limits.deadline)


def is_transient(error: BaseException) -> bool:
    """Returns whether another try may succeed: after a busy server, a failed or broken connection, a late token."""
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.cloud.storage.exceptions import InvalidResponse

    # The form of a failed upload or download within the client; what it raises at last is a GoogleAPICallError.
    if isinstance(error, InvalidResponse):
        return _is_busy(error.response.status_code)
    if isinstance(error, exceptions.GoogleAPICallError):
        return _is_busy(error.code)
    if isinstance(error, auth_exceptions.GoogleAuthError):
        return credentials.may_succeed_later(error)
    return isinstance(
        error,
        (
            ConnectionError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
        ),
    )


def retry_download() -> Any:
    """Returns the `Retry` around a whole download: it also repeats downloads that arrive damaged, and refusals that are cut off."""
    from google.cloud.storage.exceptions import DataCorruption

    return retry().with_predicate(lambda error: isinstance(error, DataCorruption) or is_transient(error))


def _is_busy(status: int | None) -> bool:
    return status in (408, 429) or (status is not None and status >= 500)


@contextlib.contextmanager
def explained(uri: str, permission: str) -> Iterator[None]:
    """Turns the errors of Google's client within a block into the errors below.

    Args:
      uri: the URI that the block reads or writes.
      permission: the permission of Cloud Storage that the block needs, such as storage.objects.get.

    Raises:
      FileNotFoundError: the object does not exist.
      Changed: a precondition of the request does not hold.
      UserError: the bucket does not exist, or this process lacks the permission.
      LostService: Cloud Storage did not answer in time.
    """
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions

    try:
        yield
    except exceptions.RetryError as error:
        raise _lost(uri, error.cause or error) from error
    except exceptions.GoogleAPICallError as error:
        if error.code == 412:
            raise Changed(uri) from error
        if error.code == 404 and permission in _NEEDS_BUCKET:
            raise _no_bucket(uri) from error
        if _is_busy(error.code):
            raise _lost(uri, error) from error
        raise _refused(uri, error.code, str(error), permission) from error
    except auth_exceptions.RefreshError as error:
        raise _no_token(uri, error) from error
    except Exception as error:
        if not is_transient(error):
            raise
        raise _lost(uri, error) from error


def of_tensorflow(error: BaseException) -> Ended | FileNotFoundError | None:
    """Returns the error that an error of TensorFlow's Cloud Storage client means; None if it has another cause."""
    if not type(error).__module__.startswith("tensorflow"):
        return None
    message = str(getattr(error, "message", error))
    found = re.search(r"gs://[^\s'\";,]+", message)
    status = re.search(r"HTTP response code (\d+)", message)
    if not found or not (status or "retry attempts failed" in message):
        return None
    uri, code = found[0].rstrip(":.)"), int(status[1]) if status else None
    if code == 401:
        # Unlike Google's client, TensorFlow keeps its token; only a new process gets a new one.
        return LostService(f"{uri}: Cloud Storage refuses an expired token: run the same command again, which renews it")
    permission = next((name for words, name in _PERMISSIONS if words in message), "a permission of Cloud Storage")
    if code is not None and not _is_busy(code):
        return _refused(uri, code, message, permission)
    # Only the reason: the body of an answer may contain anything.
    reason = re.search(r"libcurl code \d+ meaning '[^']*'", message)
    return _no_answer(uri, f"status {code}" if code else reason[0] if reason else "all tries failed")


def _refused(uri: str, status: int | None, message: str, permission: str) -> Ended | FileNotFoundError:
    if status == 404:
        is_bucket = re.search(r"bucket does not exist", message, re.IGNORECASE)
        return _no_bucket(uri) if is_bucket else FileNotFoundError(2, "no such object", uri)
    if status == 401:
        return UserError(f"{uri}: Cloud Storage refuses the credentials of {credentials.identity()}: use other credentials")
    if status == 403:
        named = re.search(r"does not have (storage\.\w+\.\w+)", message)
        return UserError(
            f"{uri}: {credentials.identity()} lacks {named[1] if named else permission} on {_bucket(uri)}: grant it, for example "
            "with the roles storage.objectUser and storage.legacyBucketReader, or choose another bucket"
        )
    if "requester pays" in message:
        return UserError(
            f"{uri}: {_bucket(uri)} has Requester Pays, which is not supported: copy the files to a bucket of your own"
        )
    return UserError(f"{uri}: Cloud Storage refuses the request with status {status}: check the name and the bucket's settings")


def _no_bucket(uri: str) -> UserError:
    return UserError(f"{uri}: there is no bucket {_bucket(uri)}: correct the name, or create it with gcloud storage buckets create")


def _bucket(uri: str) -> str:
    return f"gs://{uri.removeprefix('gs://').partition('/')[0]}"


def _no_token(uri: str, error: Any) -> Ended:
    if credentials.may_succeed_later(error):
        return LostService(f"{uri}: no token for Cloud Storage ({brief(error)}): run the same command again")
    return UserError(f"{uri}: the credentials for Cloud Storage are refused ({brief(error)}): use other credentials")


def _lost(uri: str, error: BaseException) -> LostService:
    status = getattr(getattr(error, "response", None), "status_code", None)
    # Not the error's text: it contains URLs, and anyone who knows the URL of an upload can continue it.
    return _no_answer(uri, f"status {status}" if status else type(error).__name__)


def _no_answer(uri: str, reason: str) -> LostService:
    return LostService(f"{uri}: Cloud Storage does not answer ({reason}): run the same command again")
