"""Reads, writes, lists and removes whole objects of Cloud Storage, named gs://bucket/path.

When a write returns, the object has arrived: Cloud Storage compares the CRC32C before it makes an object visible, and makes it
visible as a whole. Every request is retried until a deadline (see `patience`), and raises the errors of `failures.explained`.
"""

import base64
import functools
import io
import logging
import mimetypes
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from trainer.errors import UserError
from trainer.storage import credentials, failures
from trainer.storage.patience import patience

PREFIX = "gs://"

CONNECTIONS = 32
"""How many requests can run at once; further threads wait."""

_BUCKET = re.compile(r"(?!.*\.\.)(?![0-9.]+$)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_UPLOAD_CHUNK_BYTES = 16 << 20
_READ_CHUNK_BYTES = 128 << 10  # Most posters are smaller, and so take one request.


@dataclass(frozen=True)
class Object:
    """What Cloud Storage reports about an object.

    Attributes:
      uri: gs://bucket/path.
      size: the number of bytes.
      crc32c: the CRC32C, big-endian, in base64; empty if Cloud Storage does not know it.
      generation: a number that changes with every write.
    """

    uri: str
    size: int
    crc32c: str
    generation: int


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in Cloud Storage, gs://…"""
    return str(path).startswith(PREFIX)


def parse(uri: str) -> tuple[str, str]:
    """Returns the bucket and the object's name, which is empty if the URI names a bucket.

    Raises:
      UserError: the bucket's name is impossible.
    """
    bucket, _, name = uri.removeprefix(PREFIX).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{uri}: {bucket!r} cannot be a bucket's name: write gs://BUCKET/PATH")
    return bucket, name


def crc32c(chunks: Iterable[bytes]) -> str:
    """Returns the CRC32C of a file as Cloud Storage prints it: big-endian, in base64.

    Args:
      chunks: the content of the file, in pieces of any size.
    """
    crc = google_crc32c.Checksum()
    for chunk in chunks:
        crc.update(chunk)
    return base64.b64encode(crc.digest()).decode()


def read(uri: str) -> bytes:
    """Returns the content of an object.

    Raises:
      FileNotFoundError: the object does not exist.
    """
    return read_generation(uri)[0]


def read_generation(uri: str) -> tuple[bytes, int]:
    """Returns the content of an object and its generation.

    Raises:
      FileNotFoundError: the object does not exist.
    """
    from google.cloud.storage.exceptions import DataCorruption

    def once() -> tuple[bytes, int]:
        blob = _blob(uri)
        content = blob.download_as_bytes(raw_download=True, checksum="crc32c", **_limits())
        # The client does not check a content that it assembled from several answers.
        if blob.crc32c and crc32c([content]) != blob.crc32c:
            raise DataCorruption(None, "the CRC32C differs")
        return content, blob.generation

    with failures.explained(uri, "storage.objects.get"):
        return failures.retry_download()(once)()


def write(uri: str, content: bytes, *, generation: int | None = None) -> int:
    """Writes an object in one request, and returns its new generation.

    Args:
      uri: the object's URI.
      content: the whole content.
      generation: the generation that the object must have before the write; 0: the object must not exist; None: no condition.

    Raises:
      failures.Changed: the object has another generation. This call itself may have written it, if the answer to an earlier try
        was lost.
    """
    with failures.explained(uri, "storage.objects.create"):
        blob = _blob(uri)
        blob.upload_from_string(
            content, content_type=_content_type(uri), if_generation_match=generation, checksum="crc32c", **_limits()
        )
        return blob.generation


def upload(path: Path, uri: str) -> Object:
    """Copies a file to an object, in pieces that are retried one by one.

    Args:
      path: the file on a disk.
      uri: the object's URI.

    Returns:
      What Cloud Storage reports about the new object.
    """
    with failures.explained(uri, "storage.objects.create"):
        blob = _blob(uri)
        blob.chunk_size = _UPLOAD_CHUNK_BYTES
        blob.upload_from_filename(str(path), content_type=_content_type(uri), checksum="crc32c", **_limits())
        return _described(uri, blob)


def copy(uri: str, target: str) -> None:
    """Copies an object within Cloud Storage.

    Raises:
      FileNotFoundError: the object does not exist.
    """
    with failures.explained(uri, "storage.objects.get"):
        token = None
        while True:
            token, _, _ = _blob(target).rewrite(_blob(uri), token=token, **_limits())
            if token is None:
                return


def remove(uri: str, *, generation: int | None = None) -> None:
    """Removes an object if it exists.

    Args:
      uri: the object's URI.
      generation: the generation that the object must have; None: no condition.

    Raises:
      failures.Changed: the object has another generation.
    """
    try:
        with failures.explained(uri, "storage.objects.delete"):
            _blob(uri).delete(if_generation_match=generation, **_limits())
    except FileNotFoundError:
        pass


def stat(uri: str) -> Object:
    """Returns what Cloud Storage reports about an object.

    Raises:
      FileNotFoundError: the object does not exist.
    """
    with failures.explained(uri, "storage.objects.get"):
        blob = _blob(uri)
        blob.reload(**_limits())
        return _described(uri, blob)


def check_bucket(uri: str) -> None:
    """Checks that the bucket of a URI exists.

    TensorFlow does this too when it makes a folder, but its error names neither the bucket nor the permission.

    Raises:
      UserError: the bucket does not exist, or this process may not ask.
    """
    bucket, _ = parse(uri)
    with failures.explained(f"{PREFIX}{bucket}", "storage.buckets.get"):
        _client().bucket(bucket).reload(**_limits())


def below(folder: str, *, deep: bool = True) -> Iterator[Object]:
    """Yields the objects in a folder, in the order of their names.

    Args:
      folder: gs://bucket/path, or gs://bucket.
      deep: whether to include the objects in its subfolders.

    Raises:
      UserError: the bucket does not exist, or this process may not list it.
    """
    with failures.explained(folder, "storage.objects.list"):
        for blob in _listing(folder, deep=deep):
            yield _described(f"{PREFIX}{parse(folder)[0]}/{blob.name}", blob)


def names(folder: str) -> list[str]:
    """Returns the names of the objects and folders directly in a folder, sorted.

    Raises:
      UserError: the bucket does not exist, or this process may not list it.
    """
    with failures.explained(folder, "storage.objects.list"):
        listing = _listing(folder, deep=False)
        found = {blob.name for blob in listing} | {prefix.rstrip("/") for prefix in listing.prefixes}
    return sorted({name.rpartition("/")[2] for name in found} - {""})


def _listing(folder: str, *, deep: bool) -> Any:
    bucket, name = parse(folder)
    prefix = f"{name.rstrip('/')}/" if name else ""
    fields = "items(name,size,crc32c,generation),prefixes,nextPageToken"
    return _client().list_blobs(bucket, prefix=prefix, delimiter=None if deep else "/", fields=fields, **_limits())


def reader(uri: str, *, generation: int | None = None) -> io.BufferedIOBase:
    """Opens an object for reading at any position, by range requests and by one thread.

    Args:
      uri: the object's URI.
      generation: the generation that the object must keep while it is read; None accepts the present one.

    Raises:
      FileNotFoundError: the object does not exist.
      failures.Changed: the object has another generation.
    """
    with failures.explained(uri, "storage.objects.get"):
        blob = _blob(uri)
        blob.reload(if_generation_match=generation, **_limits())
        opened = blob.open("rb", chunk_size=_READ_CHUNK_BYTES, if_generation_match=blob.generation, **_limits())
    return _Explained(opened, uri)


@functools.cache
def client() -> Any:
    """Returns Google's client, created at the first call."""
    from google.api_core.client_info import ClientInfo
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    # Silences a warning for each connection that is retried: the retry succeeds, or `failures` explains why not.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # The default session keeps ten connections; each request of a further thread would begin with a TLS handshake.
    session = AuthorizedSession(credentials.load(), max_refresh_attempts=1)
    session.mount("https://", HTTPAdapter(pool_maxsize=CONNECTIONS))
    return storage.Client(
        project=None, credentials=credentials.load(), _http=session, client_info=ClientInfo(user_agent="poster-trainer")
    )


# Without a lock, threads that start together would each create a client and request a token.
_creating = threading.Lock()


def _client() -> Any:
    with _creating:
        return client()


def _blob(uri: str) -> Any:
    bucket, name = parse(uri)
    if not name:
        raise UserError(f"{uri} is a bucket: name a path in it, gs://{bucket}/PATH")
    return _client().bucket(bucket).blob(name)


def _described(uri: str, blob: Any) -> Object:
    return Object(uri, blob.size, blob.crc32c or "", blob.generation)


def _limits() -> dict[str, Any]:
    return {"timeout": patience().idle, "retry": failures.retry()}


def _content_type(uri: str) -> str:
    return mimetypes.guess_type(uri)[0] or "application/octet-stream"


class _Explained(io.BufferedIOBase):
    """An open object that raises the errors of `failures.explained`."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file, self._uri = file, uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        with failures.explained(self._uri, "storage.objects.get"):
            return self._file.read(-1 if size is None else size)
