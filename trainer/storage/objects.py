"""Whole objects of Cloud Storage, named gs://bucket/path: read, written, listed, removed.

What is written has arrived when a function returns: Cloud Storage compares the CRC32C before an object becomes visible, and an
object becomes visible whole. Every request is retried under a deadline (see `patience`), and fails by `failures.explained`.
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
"""How many requests can be under way at once; more threads wait for one another."""

_BUCKET = re.compile(r"(?!.*\.\.)(?![0-9.]+$)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_UPLOAD_CHUNK_BYTES = 16 << 20
_READ_CHUNK_BYTES = 128 << 10  # Most posters take less, and so one request.


@dataclass(frozen=True)
class Object:
    """What Cloud Storage says of an object.

    Attributes:
      uri: gs://bucket/path.
      size: in bytes.
      crc32c: big-endian, in base64; empty for an object that was composed in a way that has none.
      generation: changes each time the object is written.
    """

    uri: str
    size: int
    crc32c: str
    generation: int


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of Cloud Storage."""
    return str(path).startswith(PREFIX)


def parse(uri: str) -> tuple[str, str]:
    """Returns bucket and name; the name is empty for a bucket as a whole.

    Raises:
      UserError: no bucket can have such a name.
    """
    bucket, _, name = uri.removeprefix(PREFIX).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{uri}: {bucket!r} cannot be a bucket's name: write gs://BUCKET/PATH")
    return bucket, name


def crc32c(chunks: Iterable[bytes]) -> str:
    """Returns the CRC32C of the chunks of a file, as Cloud Storage prints it: big-endian, in base64."""
    crc = google_crc32c.Checksum()
    for chunk in chunks:
        crc.update(chunk)
    return base64.b64encode(crc.digest()).decode()


def read(uri: str) -> bytes:
    """Reads an object.

    Raises:
      FileNotFoundError: there is none.
    """
    return read_generation(uri)[0]


def read_generation(uri: str) -> tuple[bytes, int]:
    """Reads an object, and says of which generation it was.

    Raises:
      FileNotFoundError: there is none.
    """
    from google.cloud.storage.exceptions import DataCorruption

    def once() -> tuple[bytes, int]:
        blob = _blob(uri)
        content = blob.download_as_bytes(raw_download=True, checksum="crc32c", **_limits())
        # The client does not compare what it put together of several answers.
        if blob.crc32c and crc32c([content]) != blob.crc32c:
            raise DataCorruption(None, "the CRC32C differs")
        return content, blob.generation

    with failures.explained(uri, "storage.objects.get"):
        return failures.retry_whole()(once)()


def write(uri: str, content: bytes, *, generation: int | None = None) -> int:
    """Writes an object at once, and returns its new generation.

    Args:
      uri: the object.
      content: all of it.
      generation: what the object must be of for it to be written; 0: there must be none; None: whatever there is.

    Raises:
      failures.Changed: it is of another generation. It may be this call's own: Cloud Storage had written the object, and the answer
        was lost.
    """
    with failures.explained(uri, "storage.objects.create"):
        blob = _blob(uri)
        blob.upload_from_string(
            content, content_type=_content_type(uri), if_generation_match=generation, checksum="crc32c", **_limits()
        )
        return blob.generation


def upload(path: Path, uri: str) -> Object:
    """Copies a file to an object; a large one in pieces, each tried again by itself."""
    with failures.explained(uri, "storage.objects.create"):
        blob = _blob(uri)
        blob.chunk_size = _UPLOAD_CHUNK_BYTES
        blob.upload_from_filename(str(path), content_type=_content_type(uri), checksum="crc32c", **_limits())
        return _described(uri, blob)


def copy(uri: str, target: str) -> None:
    """Copies an object within Cloud Storage.

    Raises:
      FileNotFoundError: there is none.
    """
    with failures.explained(uri, "storage.objects.get"):
        token = None
        while True:
            token, _, _ = _blob(target).rewrite(_blob(uri), token=token, **_limits())
            if token is None:
                return


def remove(uri: str, *, generation: int | None = None) -> None:
    """Removes an object, if there is one.

    Raises:
      failures.Changed: it is not of this generation.
    """
    try:
        with failures.explained(uri, "storage.objects.delete"):
            _blob(uri).delete(if_generation_match=generation, **_limits())
    except FileNotFoundError:
        pass


def stat(uri: str) -> Object:
    """Describes an object.

    Raises:
      FileNotFoundError: there is none.
    """
    with failures.explained(uri, "storage.objects.get"):
        blob = _blob(uri)
        blob.reload(**_limits())
        return _described(uri, blob)


def check_bucket(uri: str) -> None:
    """Looks whether a bucket is there, as TensorFlow does when it makes a folder, whose error names neither bucket nor permission.

    Raises:
      UserError: it is not there, or this process may not ask.
    """
    bucket, _ = parse(uri)
    with failures.explained(f"{PREFIX}{bucket}", "storage.buckets.get"):
        _client().bucket(bucket).reload(**_limits())


def below(folder: str, *, deep: bool = True) -> Iterator[Object]:
    """Yields what lies in a folder, in the order of the names.

    Args:
      folder: gs://bucket/path, or a bucket.
      deep: at any depth; else right in the folder alone.

    Raises:
      UserError: there is no such bucket.
    """
    with failures.explained(folder, "storage.objects.list"):
        for blob in _listing(folder, deep=deep):
            yield _described(f"{PREFIX}{parse(folder)[0]}/{blob.name}", blob)


def names(folder: str) -> list[str]:
    """Returns the names of the objects and folders right in a folder, in order.

    Raises:
      UserError: there is no such bucket.
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
    """Opens an object for reading at any place, by range requests; to be used by one thread.

    Args:
      uri: the object.
      generation: that it must stay of while it is read.

    Raises:
      FileNotFoundError: there is none.
    """
    with failures.explained(uri, "storage.objects.get"):
        blob = _blob(uri)
        blob.reload(if_generation_match=generation, **_limits())
        opened = blob.open("rb", chunk_size=_READ_CHUNK_BYTES, if_generation_match=blob.generation, **_limits())
    return _Explained(opened, uri)


@functools.cache
def client() -> Any:
    """Google's client, made when it is first needed."""
    from google.api_core.client_info import ClientInfo
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    # It warns of each connection that it tries again, which ends well or is explained here.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # The stock session keeps ten connections; more threads would begin with a TLS handshake each time.
    session = AuthorizedSession(credentials.load(), max_refresh_attempts=1)
    session.mount("https://", HTTPAdapter(pool_maxsize=CONNECTIONS))
    return storage.Client(
        project=None, credentials=credentials.load(), _http=session, client_info=ClientInfo(user_agent="poster-trainer")
    )


# Without it threads that begin together would each make a client, and ask for a token each.
_making = threading.Lock()


def _client() -> Any:
    with _making:
        return client()


def _blob(uri: str) -> Any:
    bucket, name = parse(uri)
    if not name:
        raise UserError(f"{uri} is a bucket: name something in it, gs://{bucket}/PATH")
    return _client().bucket(bucket).blob(name)


def _described(uri: str, blob: Any) -> Object:
    return Object(uri, blob.size, blob.crc32c or "", blob.generation)


def _limits() -> dict[str, Any]:
    return {"timeout": patience().idle, "retry": failures.retry()}


def _content_type(uri: str) -> str:
    return mimetypes.guess_type(uri)[0] or "application/octet-stream"


class _Explained(io.BufferedIOBase):
    """A file whose errors are explained."""

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
