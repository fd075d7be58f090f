"""Where the pictures of a CSV are: a folder on a disk or on Cloud Storage, a zip archive, or whatever fsspec knows."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trainer.dataset.rejects import Reason
from trainer.errors import TRANSIENT_ERRNOS, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import archives, fsspec_files
from trainer.sources.lookup import Files, ImageFile, ImageFolder, LeadsOut, Listed, listed
from trainer.storage import files, objects, urls


@dataclass(frozen=True)
class LocalFile:
    """A file on a disk or a mounted bucket."""

    path: Path

    @property
    def waits(self) -> bool:
        return False

    def read(self) -> bytes:
        return decode.read(self.path)

    def read_small(self, most: int) -> bytes | None:
        try:
            if self.path.stat().st_size > most:
                return None
        except OSError:
            pass  # Reading it says why.
        return self.read()


@dataclass(frozen=True)
class StoredObject:
    """An object of Cloud Storage."""

    uri: str
    size: int

    @property
    def waits(self) -> bool:
        return True

    def read(self) -> bytes:
        if self.size > decode.MAX_FILE_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        try:
            return objects.read(self.uri)
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None

    def read_small(self, most: int) -> bytes | None:
        return self.read() if self.size <= most else None


class LocalFolder:
    """The files of a folder on a disk; a symbolic link is followed as long as it stays inside."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()

    @property
    def name(self) -> str:
        return self._root.name

    def paths(self) -> Iterable[str]:
        for parent, _, names in os.walk(self._root, onerror=_raise):
            folder = Path(parent).relative_to(self._root).as_posix()
            yield from (name if folder == "." else f"{folder}/{name}" for name in names)

    def get(self, path: str) -> ImageFile | None:
        try:
            file = (self._root / path).resolve()
            if not file.is_relative_to(self._root):
                raise LeadsOut
            return LocalFile(file) if file.is_file() else None
        except (OSError, ValueError, RuntimeError) as error:  # Too long a name, a zero byte, symbolic links in a circle.
            if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
                raise
            return None


def _raise(error: OSError) -> NoReturn:
    """Lets a folder that cannot be listed not pass for an empty one, whose films would be left out."""
    raise error


def read(place: str) -> bytes:
    """Reads a file on a disk, on Cloud Storage or behind a URL of fsspec.

    Raises:
      OSError: there is none, or it cannot be read.
      UserError: it cannot be read where it is.
      LostService: what holds it does not answer.
    """
    path = fsspec_files.local_path(place) or place
    return fsspec_files.read(place) if urls.is_other_service(path) else files.read(_expanded(path))


def read_image(path: str) -> bytes:
    """Reads an image file on a disk or on Cloud Storage.

    Raises:
      ImageError: the file does not exist, is too large or cannot be read.
      OSError: one of `TRANSIENT_ERRNOS`; another try may succeed.
    """
    if not files.in_cloud_storage(path):
        return LocalFile(Path(_expanded(path))).read()
    try:
        return StoredObject(path, files.stat(path).size).read()
    except FileNotFoundError:
        raise ImageError(Reason.NO_PICTURE, "no such file") from None


def _expanded(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 (pathlib's fails on `~` and the name of no user)


def folder(value: str) -> ImageFolder:
    """Finds the pictures that --images names, and lists them.

    Args:
      value: a folder or a zip archive, local, on Cloud Storage or behind any other URL of fsspec.

    Raises:
      UserError: there is no such folder or archive, nothing is in it, or it cannot be read.
      LostService: what holds it does not answer.
    """
    return ImageFolder(_files(value))


def _files(value: str) -> Files:
    if files.in_cloud_storage(value):
        return _of_bucket(value)
    if (local := fsspec_files.local_path(value)) is None:
        return _of_fsspec(value)
    path = Path(_expanded(local))
    if path.is_dir():
        return LocalFolder(path)
    if not path.is_file():
        raise UserError(f"--images={urls.shown(value)}: there is no such folder or zip archive")
    if not archives.is_archive_name(value):
        raise UserError(f"--images={urls.shown(value)} is a file: name a folder, or an archive whose name ends in .zip")
    return _of_archive(value, archives.Archive(str(path)))


def _of_bucket(uri: str) -> Listed:
    bucket, name = objects.parse(uri)
    if archives.is_archive_name(uri):
        try:
            return _of_archive(uri, archives.Archive(uri, objects.stat(uri).generation))
        except FileNotFoundError:
            pass  # A folder may be called so.
    root = f"{objects.PREFIX}{bucket}/{name.strip('/')}".rstrip("/") + "/"
    found = ((item.uri.removeprefix(root), StoredObject(item.uri, item.size)) for item in objects.below(root))
    return _not_empty(uri, listed(name.rstrip("/").rpartition("/")[2] or bucket, found))


def _of_fsspec(url: str) -> Listed:
    if archives.is_archive_name(url) and fsspec_files.is_file(url):
        return _of_archive(url, archives.Archive(url))
    return _not_empty(url, listed(fsspec_files.name(url), fsspec_files.below(url)))


def _of_archive(value: str, archive: archives.Archive) -> Listed:
    name = fsspec_files.name(value).rpartition(".")[0]
    return _not_empty(value, listed(name, archives.members(archive)))


def _not_empty(value: str, files: Listed) -> Listed:
    if not files.images:
        raise UserError(
            f"--images={urls.shown(value)} holds no file, or is no folder: name the folder or the zip archive of the posters"
        )
    return files
