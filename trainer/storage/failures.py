"""What went wrong with Cloud Storage, in one line and an exit code: of Google's client, and of TensorFlow's."""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from trainer.errors import Ended, LostService, UserError, brief
from trainer.storage import credentials
from trainer.storage.patience import patience

# What is missing where these meet a 404: an object needs not be there.
_OF_THE_BUCKET = ("storage.buckets.get", "storage.objects.create", "storage.objects.list")

# How TensorFlow ends its messages, and the permission that it takes.
_WHILE = (
    ("when reading", "storage.objects.get"),
    ("upload", "storage.objects.create"),
    ("when deleting", "storage.objects.delete"),
    ("when renaming", "storage.objects.create"),
    ("when composing", "storage.objects.create"),
)


class Changed(Exception):
    """An object is not of the generation that was asked for: someone else has written it."""


@functools.cache
def retry() -> Any:
    """The `google.api_core.retry.Retry` of every request: longer pauses each time, with jitter, and a deadline."""
    from google.api_core.retry import Retry

    limits = patience()
    return Retry(predicate=may_pass, initial=limits.first_pause, maximum=limits.longest_pause, timeout=limits.deadline)


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: busy servers, connections that fail or break off, tokens that are late."""
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, InvalidResponse):
        return _is_busy(error.response.status_code)
    if isinstance(error, exceptions.GoogleAPICallError):
        return _is_busy(error.code)
    if isinstance(error, auth_exceptions.GoogleAuthError):
        return credentials.may_come(error)
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


def retry_whole() -> Any:
    """The same around a download as a whole: for content that arrives damaged, and refusals that are cut off."""
    from google.cloud.storage.exceptions import DataCorruption

    return retry().with_predicate(lambda error: isinstance(error, DataCorruption) or may_pass(error))


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
    except (exceptions.GoogleAPICallError, InvalidResponse) as error:
        status = error.response.status_code if isinstance(error, InvalidResponse) else error.code
        if status == 412:
            raise Changed(uri) from error
        if status == 404 and permission in _OF_THE_BUCKET:
            raise _no_bucket(uri) from error
        if _is_busy(status):
            raise _lost(uri, error) from error
        raise _refused(uri, status, str(error), permission) from error
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
    permission = next((name for words, name in _WHILE if words in message), "a permission of Cloud Storage")
    if code is not None and not _is_busy(code):
        return _refused(uri, code, message, permission)
    # The body of an answer may hold anything.
    reason = re.search(r"libcurl code \d+ meaning '[^']*'", message)
    return _no_answer(uri, f"status {code}" if code else reason[0] if reason else "all tries failed")


def _refused(uri: str, status: int | None, message: str, permission: str) -> Ended | FileNotFoundError:
    if status == 404:
        is_bucket = re.search(r"bucket does not exist", message, re.IGNORECASE)
        return _no_bucket(uri) if is_bucket else FileNotFoundError(2, "there is no such object", uri)
    if status == 401:
        return UserError(f"{uri}: Cloud Storage refuses the credentials of {credentials.identity()}: give others")
    if status == 403:
        named = re.search(r"does not have (storage\.\w+\.\w+)", message)
        return UserError(
            f"{uri}: {credentials.identity()} lacks {named[1] if named else permission} on {_bucket(uri)}: grant it, for example "
            "with the roles storage.objectUser and storage.legacyBucketReader, or choose another place"
        )
    if "requester pays" in message:
        return UserError(f"{uri}: the requester pays for {_bucket(uri)}, which is not supported: copy it to a bucket of your own")
    return UserError(
        f"{uri}: Cloud Storage refuses the request with status {status}: look at the name and at the bucket's settings"
    )


def _no_bucket(uri: str) -> UserError:
    return UserError(f"{uri}: there is no bucket {_bucket(uri)}: mend the name, or make it with gcloud storage buckets create")


def _bucket(uri: str) -> str:
    return f"gs://{uri.removeprefix('gs://').partition('/')[0]}"


def _no_token(uri: str, error: Any) -> Ended:
    if credentials.may_come(error):
        return LostService(f"{uri}: no token for Cloud Storage ({brief(error)}): run the same command again")
    return UserError(f"{uri}: the credentials for Cloud Storage are refused ({brief(error)}): give others")


def _lost(uri: str, error: BaseException) -> LostService:
    status = getattr(getattr(error, "response", None), "status_code", None)
    # Not the error's text: it has addresses in it, and that of an upload lets whoever knows it go on with it.
    return _no_answer(uri, f"status {status}" if status else type(error).__name__)


def _no_answer(uri: str, reason: str) -> LostService:
    return LostService(f"{uri}: Cloud Storage does not answer ({reason}): run the same command again")
