"""Pictures from the web, into a cache that later runs read."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError

from trainer.dataset.rejects import Reason
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.process.progress import progress

MAX_BYTES = 20_000_000

_THREADS = 16
_CONNECT_AND_READ_TIMEOUT_S = (10, 30)
_LONGEST_DOWNLOAD_S = 120  # A server that sends a byte every now and then meets no read timeout.
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_RETRY = Retry(total=3, backoff_factor=0.5, backoff_max=30, retry_after_max=30)
_CHUNK_BYTES = 1 << 16


def default_cache_dir() -> Path:
    """Returns the folder of the XDG Base Directory Specification in which this package keeps pictures from the web."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "poster-trainer" / "pictures"


def fetch(
    urls: Sequence[str], *, cache_dir: Path, max_bytes: int = MAX_BYTES, retry: Retry = _RETRY
) -> dict[str, Path | ImageError]:
    """Fetches pictures, 16 at a time, each at most once for one cache.

    Busy servers (429, 5xx) and connections that fail or break off are tried again. Redirects are followed to http and https only. A
    file of the cache is named by the SHA-256 of its URL and appears whole or not at all; failures are not kept, so that another run
    tries again.

    Args:
      urls: http and https addresses; repeated ones are fetched once.
      cache_dir: the cache; made if need be.
      max_bytes: a longer answer is broken off and rejected.
      retry: how often to try again, and after what pauses.

    Returns:
      For each URL the file in the cache, or why there is none. The files have passed no other check: decoding them may yet fail.

    Raises:
      OSError: the cache cannot be written.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    fetched: dict[str, Path | ImageError] = {}
    missing: dict[str, Path] = {}
    for url in dict.fromkeys(urls):
        file = cache_dir / hashlib.sha256(url.encode()).hexdigest()
        (fetched if file.exists() else missing)[url] = file
    if not missing:
        return fetched
    sessions = _Sessions()
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = {pool.submit(_fetch_one, sessions, url, file, max_bytes, retry): url for url, file in missing.items()}
        try:
            for job in progress(as_completed(jobs), total=len(jobs), what="fetching pictures"):
                fetched[jobs[job]] = job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return fetched


class _Sessions(threading.local):
    """A `requests.Session` a thread: sessions are not safe to share.

    A session knows http and https alone, so that a redirect to another scheme has nowhere to go.
    """

    def __init__(self) -> None:
        self.session = requests.Session()
        # A picture does not shrink by gzip, and a bomb of it would grow past the limit in one piece.
        self.session.headers.update({"Accept-Encoding": "identity", "User-Agent": "poster-trainer"})


def _fetch_one(sessions: _Sessions, url: str, file: Path, max_bytes: int, retry: Retry) -> Path | ImageError:
    try:
        content = _download(sessions.session, url, max_bytes, retry)
    except ImageError as error:
        return error
    if decode.format_of(content) is None:  # A page that says that it is sorry, say: it may be another tomorrow.
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"the server sent neither JPEG, PNG nor WebP but {content[:8]!r}")
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _download(session: requests.Session, url: str, max_bytes: int, retry: Retry) -> bytes:
    # The `Retry` is driven by hand: inside requests it would see the header fail but not the body that breaks off.
    while True:
        answer = None
        try:
            with session.get(url, stream=True, timeout=_CONNECT_AND_READ_TIMEOUT_S) as response:
                if response.ok:
                    return b"".join(_body(response, max_bytes))
                answer = response.raw
                failure = ImageError(Reason.NOT_FETCHED, f"the server answered {response.status_code}")
                if response.status_code not in _RETRIED_STATUS:
                    raise failure
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            failure = ImageError(Reason.NOT_FETCHED, "no connection to the server, or it broke off")
        except requests.TooManyRedirects:
            raise ImageError(Reason.NOT_FETCHED, "too many redirects") from None
        except (requests.RequestException, ValueError):
            raise ImageError(Reason.NOT_FETCHED, "no valid http address, or a redirect to none") from None
        try:
            retry = retry.increment("GET", url)
        except MaxRetryError:
            raise failure from None
        retry.sleep(answer)


def _body(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    deadline = time.monotonic() + _LONGEST_DOWNLOAD_S
    received = 0
    for chunk in response.iter_content(_CHUNK_BYTES):
        received += len(chunk)
        if received > max_bytes:
            raise ImageError(Reason.TOO_LARGE, f"more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise ImageError(Reason.NOT_FETCHED, f"not whole after {_LONGEST_DOWNLOAD_S} seconds")
        yield chunk
