"""Files behind the URLs that fsspec supports: https, s3, sftp and many more, most of which need their own package."""

import contextlib
import functools
import posixpath
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

from trainer.dataset.rejects import Reason
from trainer.errors import Ended, LostService, UserError, brief
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.storage import urls

_T = TypeVar("_T")

_BLOCK_BYTES = 128 << 10  # Block of a random read. Most posters are smaller, so each takes one request.
_PAUSES = (0.5, 1.0, 2.0)  # Seconds before each retry.
_LOCAL = ("file://", "local://")


@dataclass(frozen=True)
class File:
    """A file in an fsspec file system.

    Attributes:
      folder: URL of the folder that lists the file; it determines the file system.
      path: Path of the file in that file system.
      size: Size in bytes; None if the file system does not tell it.
    """

    folder: str
    path: str
    size: int | None

    @property
    def is_remote(self) -> bool:
        return True

    def read(self) -> bytes:
        data = self.read_small(decode.MAX_FILE_BYTES)
        if data is None:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        return data

    def read_small(self, max_bytes: int) -> bytes | None:
        if self.size is not None and self.size > max_bytes:
            return None
        data = self._request(
            lambda system: _read_up_to(system, self.path, max_bytes + 1) if self.size is None else system.cat_file(self.path)
        )
        return data if len(data) <= max_bytes else None

    def read_start(self, count: int) -> bytes:
        return self._request(lambda system: _read_up_to(system, self.path, count))

    def _request(self, request: Callable[[Any], bytes]) -> bytes:
        try:
            return _with_retries(self.folder, lambda: request(_file_system(self.folder)[0]))
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None


def local_path(value: str) -> str | None:
    """Returns the local path that a path or a file:// URL names, or None for any other URL."""
    for prefix in _LOCAL:
        if value.startswith(prefix):
            return value.removeprefix(prefix)
    return None if "://" in value else value


def name(url: str) -> str:
    """Returns the last part of a path or URL."""
    return unquote(posixpath.basename(url.partition("?")[0].rstrip("/")))


def read(url: str) -> bytes:
    """Reads a whole file.

    Raises:
      FileNotFoundError: The file does not exist.
      UserError: The storage refuses the read.
      LostService: The storage does not answer.
    """

    def read_whole() -> bytes:
        system, path = _file_system(url)
        return system.cat_file(path)

    return _with_retries(url, read_whole)


def is_file(url: str) -> bool:
    """Returns whether a URL names an existing file.

    Raises:
      UserError: The storage refuses the request.
      LostService: The storage does not answer.
    """

    def is_type_file() -> bool:
        system, path = _file_system(url)
        return system.info(path)["type"] == "file"

    try:
        return _with_retries(url, is_type_file)
    except FileNotFoundError:
        return False


def open_seekable(url: str) -> Any:
    """Opens a file for random access.

    Returns:
      A binary file object. Its methods retry failed requests and raise the same errors as `read`.

    Raises:
      FileNotFoundError: The file does not exist.
      UserError: The storage refuses the read, or its server does not support range requests.
      LostService: The storage does not answer.
    """

    def open_file() -> Any:
        system, path = _file_system(url)
        return system.open(path, "rb", block_size=_BLOCK_BYTES)

    file = _RetryingFile(_with_retries(url, open_file), url)
    try:
        file.seek(-1, 2)
        file.read(1)
    except UserError as error:
        file.close()
        if not isinstance(error.__cause__, ValueError):
            raise
        raise UserError(
            f"{urls.shown(url)} is on a server that does not support range requests: copy it to this machine or to gs:// first"
        ) from None
    return file


def below(folder: str) -> Iterator[tuple[str, File]]:
    """Yields the relative path of each file of a folder and its subfolders, and the file.

    Raises:
      UserError: The folder does not exist, or the storage refuses to list it.
      LostService: The storage does not answer.
    """

    def list_files() -> list[tuple[str, File]]:
        system, root = _file_system(folder)
        if urls.is_web(folder):
            return [(unquote(path.removeprefix(f"{root.rstrip('/')}/")), File(folder, path, None)) for path in _crawl(system, root)]
        base = f"{root.rstrip('/')}/"
        return [
            (path.removeprefix(base), File(folder, path, info.get("size")))
            for path, info in system.find(root, detail=True).items()
            if path.startswith(base) and info.get("type") == "file"
        ]

    try:
        yield from _with_retries(folder, list_files)
    except FileNotFoundError:
        raise UserError(f"{urls.shown(folder)} does not exist: check the URL") from None


def _crawl(system: Any, root: str) -> Iterator[str]:
    """Yields the files that the index pages of a web folder link to.

    fsspec's own `find` treats a page that cannot be read as an empty folder.
    """
    waiting, seen = [f"{root.rstrip('/')}/"], set()
    while waiting:
        folder = waiting.pop()
        seen.add(folder)
        for path in sorted(system.ls(folder, detail=False)):
            # Index pages also link to their parent, and to themselves in another sort order.
            if not path.startswith(folder) or "/.." in path or "?" in path or "#" in path:
                continue
            if not path.endswith("/"):
                yield path
            elif path not in seen:
                waiting.append(path)


@functools.cache
def _file_system(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the file's path in it."""
    import fsspec

    # Unlike other HTTP clients, aiohttp ignores the proxy in the environment by default.
    options = {"client_kwargs": {"trust_env": True}} if urls.is_web(url) else {}
    try:
        return fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise _missing_package(url, error) from None
    except ValueError as error:
        raise UserError(f"{urls.shown(url)}: {brief(error)}: give a path, gs://…, or a URL that fsspec supports") from None


def _read_up_to(system: Any, path: str, max_bytes: int) -> bytes:
    """Reads a file of unknown size, up to `max_bytes`."""
    # With block size 0, fsspec streams a file from the web and downloads no more than is read.
    options = {"block_size": 0} if urls.is_web(path) else {}
    data = b""
    with system.open(path, "rb", **options) as file:
        while len(data) < max_bytes and (piece := file.read(max_bytes - len(data))):
            data += piece
    return data


def _with_retries(url: str, request: Callable[[], _T]) -> _T:
    """Makes a request, and retries it after temporary errors."""
    for pause in _PAUSES:
        try:
            with _translated_errors(url):
                return request()
        except LostService:
            time.sleep(pause)
    with _translated_errors(url):
        return request()


@contextlib.contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Turns the errors of a file system, each of which has its own, into this package's errors."""
    try:
        yield
    except (Ended, ImageError):
        raise
    except Exception as error:
        raise _translate(url, error) from error


def _translate(url: str, error: BaseException) -> Exception:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return _translate(url, error.__cause__)  # fsspec raises it for an unreachable HTTP server too.
    shown = urls.shown(url)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return FileNotFoundError(2, "no such file", shown)
    if isinstance(error, ImportError):  # Some file systems import their package at the first request.
        return _missing_package(url, error)
    if isinstance(error, PermissionError):
        return UserError(f"{shown} may not be read ({_cause(error)}): use other credentials, or give another URL")
    status = getattr(error, "status", None)
    if status == 404:
        return FileNotFoundError(2, "no such file", shown)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return UserError(f"{shown} cannot be read (the server answers {status}): check the URL and your permission to read it")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("aiohttp", "asyncio"):
        return LostService(f"{shown} does not answer ({_cause(error)}): run the same command again, or check the URL")
    return UserError(f"{shown} cannot be read ({_cause(error)}): check the URL, your permission to read it and the credentials")


def _cause(error: BaseException) -> str:
    """Returns an error of another library in short, with its type: a KeyError's text alone is only the key."""
    text, kind = brief(error), type(error).__name__
    return kind if text == kind else f"{kind}: {text}"


def _missing_package(url: str, error: ImportError) -> UserError:
    remedy = "pip install 'poster-trainer[fsspec]'" if urls.is_web(url) else "install the package with pip"
    return UserError(f"{urls.shown(url)} needs a package that is not installed ({brief(error)}): {remedy}")


class _RetryingFile:
    """A binary file whose reads are retried and whose errors are translated."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        with _translated_errors(self._url):
            return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        offset = self._file.tell()

        def read_from_offset() -> bytes:
            self._file.seek(offset)
            return self._file.read(size)

        return _with_retries(self._url, read_from_offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "_RetryingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
