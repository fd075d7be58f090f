"""Downloads images from the web into a cache that later runs read."""

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
_MAX_DOWNLOAD_S = 120  # A server that sends a byte now and then never triggers the read timeout.
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_RETRY = Retry(total=3, backoff_factor=0.5, retry_after_max=30)
_CHUNK_BYTES = 1 << 16


def default_cache_dir() -> Path:
    """Returns the cache folder for images from the web, as the XDG Base Directory Specification places it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "poster-trainer" / "pictures"


def download(
    urls: Sequence[str], *, cache_dir: Path, max_bytes: int = MAX_BYTES, retry: Retry = _RETRY
) -> dict[str, Path | ImageError]:
    """Downloads the images that are not in the cache yet, 16 at a time.

    Requests are retried when the server is busy (429, 5xx) or the connection fails or is interrupted. Redirects are followed to
    http and https only. A file in the cache has the SHA-256 of its URL as its name and appears whole or not at all. Failures are
    not cached, so that the next run tries again.

    Args:
      urls: http and https URLs; a repeated URL is downloaded once.
      cache_dir: Folder of the cache, created if it does not exist.
      max_bytes: Largest size of a file in bytes; the download of a larger file is aborted.
      retry: How often to retry a request, and after which pauses.

    Returns:
      For each URL the path of the file in the cache, or the reason why there is none. Only the first bytes of a file have been
      checked: decoding it may still fail.

    Raises:
      OSError: The cache cannot be written.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Path | ImageError] = {}
    missing: dict[str, Path] = {}
    for url in dict.fromkeys(urls):
        file = cache_dir / hashlib.sha256(url.encode()).hexdigest()
        (results if file.exists() else missing)[url] = file
    if not missing:
        return results
    sessions = _Sessions()
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = {pool.submit(_download_one, sessions, url, file, max_bytes, retry): url for url, file in missing.items()}
        try:
            for future in progress(as_completed(futures), total=len(futures), what="downloading images"):
                results[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


class _Sessions(threading.local):
    """One `requests.Session` per thread, as sessions are not thread-safe.

    A session supports only http and https, so a redirect to another scheme fails.
    """

    def __init__(self) -> None:
        self.session = requests.Session()
        # gzip does not shrink images, and a compression bomb would exceed the size limit in a single chunk.
        self.session.headers.update({"Accept-Encoding": "identity", "User-Agent": "poster-trainer"})


def _download_one(sessions: _Sessions, url: str, file: Path, max_bytes: int, retry: Retry) -> Path | ImageError:
    try:
        content = _get(sessions.session, url, max_bytes, retry)
    except ImageError as error:
        return error
    if decode.format_of(content) is None:  # An error page, for example; the image may be back tomorrow.
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"the server sent neither JPEG, PNG nor WebP but {content[:8]!r}")
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _get(session: requests.Session, url: str, max_bytes: int, retry: Retry) -> bytes:
    # Inside requests, `Retry` would cover the headers but not an interrupted body; so this loop applies it.
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
            failure = ImageError(Reason.NOT_FETCHED, "the connection to the server failed or was interrupted")
        except requests.TooManyRedirects:
            raise ImageError(Reason.NOT_FETCHED, "too many redirects") from None
        except (requests.RequestException, ValueError):
            raise ImageError(Reason.NOT_FETCHED, "not a valid http(s) URL, or a redirect to something else") from None
        try:
            retry = retry.increment("GET", url)
        except MaxRetryError:
            raise failure from None
        retry.sleep(answer)


def _body(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    deadline = time.monotonic() + _MAX_DOWNLOAD_S
    received = 0
    for chunk in response.iter_content(_CHUNK_BYTES):
        received += len(chunk)
        if received > max_bytes:
            raise ImageError(Reason.TOO_LARGE, f"more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise ImageError(Reason.NOT_FETCHED, f"incomplete after {_MAX_DOWNLOAD_S} seconds")
        yield chunk
