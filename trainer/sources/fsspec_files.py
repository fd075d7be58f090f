"""Files behind the URLs that fsspec knows: https, s3, sftp and many more, each with a package of its own."""

import contextlib
import functools
import posixpath
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

from trainer.dataset.rejects import Reason
from trainer.errors import Ended, LostService, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.storage import urls

_T = TypeVar("_T")

_BLOCK_BYTES = 128 << 10  # Of what is read here and there: most posters take less, and so one request.
_PAUSES = (0.5, 1.0, 2.0)  # Seconds before each further try.
_LOCAL = ("file://", "local://")


@dataclass(frozen=True)
class File:
    """A file of a file system of fsspec.

    Attributes:
      folder: the URL of the folder that it was found in, which says how to reach it.
      path: what the file system calls it.
      size: in bytes, None where the file system does not tell.
    """

    folder: str
    path: str
    size: int | None

    @property
    def waits(self) -> bool:
        return True

    def read(self) -> bytes:
        data = self.read_small(decode.MAX_FILE_BYTES)
        if data is None:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        return data

    def read_small(self, most: int) -> bytes | None:
        if self.size is not None and self.size > most:
            return None

        def beginning() -> bytes:
            system, _ = _file_system(self.folder)
            return _beginning(system, self.path, most + 1) if self.size is None else system.cat_file(self.path)

        try:
            data = _patiently(self.folder, beginning)
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None
        return data if len(data) <= most else None


def local_path(value: str) -> str | None:
    """Returns what a path or URL of this machine's own files names, None for a URL of anything else."""
    for prefix in _LOCAL:
        if value.startswith(prefix):
            return value.removeprefix(prefix)
    return None if "://" in value else value


def name(url: str) -> str:
    """Returns the last part of a path or URL."""
    return unquote(posixpath.basename(url.partition("?")[0].rstrip("/")))


def read(url: str) -> bytes:
    """Reads a file.

    Raises:
      FileNotFoundError: there is none.
      UserError: it cannot be read.
      LostService: what holds it does not answer.
    """

    def whole() -> bytes:
        system, path = _file_system(url)
        return system.cat_file(path)

    return _patiently(url, whole)


def is_file(url: str) -> bool:
    """Whether there is a file; raises as `read` does."""

    def found() -> bool:
        system, path = _file_system(url)
        return system.info(path)["type"] == "file"

    try:
        return _patiently(url, found)
    except FileNotFoundError:
        return False


def open_seekable(url: str) -> Any:
    """Opens a file for reading at any place; its errors are explained as those of `read` are.

    Raises:
      UserError: also where the server gives files as a whole only.
    """

    def opened() -> Any:
        system, path = _file_system(url)
        return system.open(path, "rb", block_size=_BLOCK_BYTES)

    file = _Explained(_patiently(url, opened), url)
    try:
        file.seek(-1, 2)
        file.read(1)
    except UserError as error:
        file.close()
        if not isinstance(error.__cause__, ValueError):
            raise
        raise UserError(
            f"{urls.shown(url)}: its server gives the file as a whole only: copy it to this machine or to gs:// first"
        ) from None
    return file


def below(folder: str) -> Iterator[tuple[str, File]]:
    """Yields the files of a folder, at any depth, by their paths from there; raises as `read` does."""

    def found() -> list[tuple[str, File]]:
        system, root = _file_system(folder)
        if urls.is_web(folder):
            return [
                (unquote(path.removeprefix(f"{root.rstrip('/')}/")), File(folder, path, None)) for path in _crawled(system, root)
            ]
        base = f"{root.rstrip('/')}/"
        return [
            (path.removeprefix(base), File(folder, path, info.get("size")))
            for path, info in system.find(root, detail=True).items()
            if path.startswith(base) and info.get("type") == "file"
        ]

    try:
        yield from _patiently(folder, found)
    except FileNotFoundError:
        raise UserError(f"{urls.shown(folder)}: there is no such folder: mend the address") from None


def _crawled(system: Any, root: str) -> Iterator[str]:
    """Yields the files that the pages of a folder on the web link to.

    fsspec's own search takes a page that cannot be read for an empty folder.
    """
    waiting, seen = [f"{root.rstrip('/')}/"], set()
    while waiting:
        folder = waiting.pop()
        seen.add(folder)
        for path in sorted(system.ls(folder, detail=False)):
            # Pages also link upwards, and to themselves in another order.
            if not path.startswith(folder) or "/.." in path or "?" in path or "#" in path:
                continue
            if not path.endswith("/"):
                yield path
            elif path not in seen:
                waiting.append(path)


@functools.cache
def _file_system(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and what it calls the file there."""
    import fsspec

    # aiohttp, unlike all others, does not ask the environment for a proxy unless it is told to.
    options = {"client_kwargs": {"trust_env": True}} if urls.is_web(url) else {}
    try:
        return fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise _lacks(url, error) from None
    except ValueError as error:
        raise UserError(f"{urls.shown(url)}: {urls.cleaned(str(error))}: name a path, gs://…, or a URL that fsspec knows") from None


def _beginning(system: Any, path: str, most: int) -> bytes:
    """Reads a file of unknown size, but not more than so many bytes."""
    # Without blocks a file on the web is one stream, of which no more comes than is taken.
    options = {"block_size": 0} if urls.is_web(path) else {}
    data = b""
    with system.open(path, "rb", **options) as file:
        while len(data) < most and (piece := file.read(most - len(data))):
            data += piece
    return data


def _patiently(url: str, work: Callable[[], _T]) -> _T:
    """Does some reading, a few times where what fails may pass."""
    for pause in _PAUSES:
        try:
            with _explained(url):
                return work()
        except LostService:
            time.sleep(pause)
    with _explained(url):
        return work()


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns the errors of a file system, of which each has its own, into those of the contract."""
    try:
        yield
    except (Ended, ImageError):
        raise
    except Exception as error:
        raise _meaning(url, error) from error


def _meaning(url: str, error: BaseException) -> Exception:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return _meaning(url, error.__cause__)  # What http says of a server that is not there.
    place = urls.shown(url)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return FileNotFoundError(2, "no such file", place)
    if isinstance(error, ImportError):  # Some packages are asked for at the first request only.
        return _lacks(url, error)
    if isinstance(error, PermissionError):
        return UserError(f"{place} may not be read ({_brief(error)}): give other credentials, or name another place")
    status = getattr(error, "status", None)
    if status == 404:
        return FileNotFoundError(2, "no such file", place)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return UserError(f"{place} cannot be read: the server answers {status}: mend the address or the rights there")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("aiohttp", "asyncio"):
        return LostService(f"{place} does not answer ({_brief(error)}): mend the address, or run the same command again")
    return UserError(f"{place} cannot be read ({_brief(error)}): mend the address, the rights there or the credentials")


def _lacks(url: str, error: ImportError) -> UserError:
    remedy = "pip install 'poster-trainer[fsspec]'" if urls.is_web(url) else "install that package with pip"
    return UserError(f"{urls.shown(url)} needs a package that is not installed ({urls.cleaned(str(error))}): {remedy}")


def _brief(error: BaseException) -> str:
    text = urls.cleaned(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Explained:
    """A file that is read patiently, and whose errors are explained."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        with _explained(self._url):
            return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        place = self._file.tell()

        def piece() -> bytes:
            self._file.seek(place)
            return self._file.read(size)

        return _patiently(self._url, piece)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "_Explained":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
