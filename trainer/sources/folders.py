"""Opens the folder or zip archive of a CSV's images: on a disk, on Cloud Storage or on any other storage that fsspec supports."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from etils import epath

from trainer.dataset.rejects import Reason
from trainer.errors import TRANSIENT_ERRNOS, UserError, brief
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import archives, fsspec_files
from trainer.sources.image_folder import Folder, ImageFile, ListedFolder, OutsideFolderError, listed_folder
from trainer.sources.lookup import ImageFinder, images_among
from trainer.storage import files, objects, urls


@dataclass(frozen=True)
class LocalFile:
    """A file on a disk or a mounted bucket."""

    path: Path

    @property
    def is_remote(self) -> bool:
        return False

    def read(self) -> bytes:
        return decode.read(self.path)

    def read_small(self, max_bytes: int) -> bytes | None:
        try:
            if self.path.stat().st_size > max_bytes:
                return None
        except OSError:
            pass  # Reading the file raises an error that names the reason.
        return self.read()

    def read_start(self, count: int) -> bytes:
        return decode.read_start(self.path, count)


@dataclass(frozen=True)
class StoredObject:
    """An object in Cloud Storage.

    Attributes:
      uri: Its `gs://` URI.
      size: Size in bytes, as its folder's listing tells it.
    """

    uri: str
    size: int

    @property
    def is_remote(self) -> bool:
        return True

    def read(self) -> bytes:
        if self.size > decode.MAX_FILE_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        try:
            return objects.read(self.uri)
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None

    def read_small(self, max_bytes: int) -> bytes | None:
        return self.read() if self.size <= max_bytes else None

    def read_start(self, count: int) -> bytes:
        return CloudImage(self.uri).read_start(count)


@dataclass(frozen=True)
class CloudImage:
    """An image in Cloud Storage that no listing has told about: its size is asked for when it is read.

    A CSV may hold any text behind `gs://`: where no object can be called so, reading raises an `ImageError` too.

    Attributes:
      uri: Its `gs://` URI.
    """

    uri: str

    @property
    def is_remote(self) -> bool:
        return True

    def read(self) -> bytes:
        return self._object().read()

    def read_small(self, max_bytes: int) -> bytes | None:
        return self._object().read_small(max_bytes)

    def read_start(self, count: int) -> bytes:
        self._check()
        try:
            with objects.reader(self.uri) as file:
                return file.read(count)
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None

    def _object(self) -> StoredObject:
        self._check()
        try:
            return StoredObject(self.uri, files.stat(self.uri).size)
        except FileNotFoundError:
            raise ImageError(Reason.NO_PICTURE, "no such file") from None

    def _check(self) -> None:
        try:
            _, name = objects.parse(self.uri)
        except UserError as error:
            raise ImageError(Reason.NO_PICTURE, brief(error)) from None
        if not name or name.endswith("/"):
            raise ImageError(Reason.NO_PICTURE, "a bucket or folder, not a file")


class LocalFolder:
    """A folder on a disk or a mounted bucket. Symbolic links are followed as long as they lead to a file inside it."""

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
            file = self._root / path
            if not file.is_file():
                return None
            file = file.resolve()
            if not file.is_relative_to(self._root):
                raise OutsideFolderError
            return LocalFile(file)
        except (OSError, ValueError, RuntimeError) as error:  # Too long a name, a null byte, a circle of symbolic links.
            if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
                raise
            return None


def _raise(error: OSError) -> NoReturn:
    """Raises the error of a folder that cannot be listed, which `os.walk` would treat as an empty folder."""
    raise error


def read(path: str) -> bytes:
    """Reads a whole file.

    Args:
      path: Local path, `gs://` URI or URL that fsspec supports.

    Returns:
      The file's bytes.

    Raises:
      OSError: The file does not exist or cannot be read.
      UserError: The storage refuses the read.
      LostService: The storage does not answer.
    """
    local = fsspec_files.local_path(path) or path
    return fsspec_files.read(path) if urls.is_other_service(local) else files.read(_expanded(local))


def read_image(path: str) -> bytes:
    """Reads an image file on a disk or on Cloud Storage.

    Args:
      path: Local path or `gs://` URI.

    Returns:
      The file's bytes.

    Raises:
      ImageError: The file does not exist, is too large or cannot be read.
      UserError: Cloud Storage refuses the read.
      LostService: Cloud Storage does not answer.
      OSError: One of `TRANSIENT_ERRNOS`: a later try may succeed.
    """
    return _image_file(path).read()


def _image_file(path: str) -> ImageFile:
    return CloudImage(path) if files.in_cloud_storage(path) else LocalFile(Path(_expanded(path)))


def _expanded(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 (pathlib's raises an error for `~` before an unknown user's name)


def images_in(folder: str) -> list[str]:
    """Returns the paths of the images directly in a folder, sorted by name.

    Args:
      folder: Local path or `gs://` URI.

    Raises:
      OSError: The folder cannot be listed.
      UserError: Cloud Storage refuses the listing.
      LostService: Cloud Storage does not answer.
    """
    root = epath.Path(_expanded(folder))
    if files.in_cloud_storage(folder):
        names = [item.uri.rpartition("/")[2] for item in objects.below(folder, deep=False) if not item.uri.endswith("/")]
    else:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if not entry.is_dir()]
    return [str(root / name) for name in images_among(names, lambda name: _image_file(str(root / name)))]


def open_images(images: str) -> ImageFinder:
    """Opens the folder or zip archive that --images names, and lists its files.

    Args:
      images: Local path, `gs://` URI or URL that fsspec supports, of a folder or a zip archive.

    Returns:
      A finder of the images in it.

    Raises:
      UserError: The folder or archive does not exist, is empty or cannot be read.
      LostService: The storage does not answer.
    """
    return ImageFinder(_open_folder(images))


def _open_folder(images: str) -> Folder:
    if files.in_cloud_storage(images):
        return _bucket_folder(images)
    if (local := fsspec_files.local_path(images)) is None:
        return _fsspec_folder(images)
    path = Path(_expanded(local))
    if path.is_dir():
        return LocalFolder(path)
    if not path.is_file():
        raise UserError(f"--images={urls.shown(images)} does not exist: name a folder or a zip archive")
    if not archives.is_archive_name(images):
        raise UserError(f"--images={urls.shown(images)} is a file: name a folder, or an archive whose name ends in .zip")
    return _archive_folder(images, archives.Archive(str(path)))


def _bucket_folder(uri: str) -> ListedFolder:
    bucket, name = objects.parse(uri)
    if archives.is_archive_name(uri):
        try:
            return _archive_folder(uri, archives.Archive(uri, objects.stat(uri).generation))
        except FileNotFoundError:
            pass  # It may be a folder with such a name.
    root = f"{objects.PREFIX}{bucket}/{name.strip('/')}".rstrip("/") + "/"
    found = ((item.uri.removeprefix(root), StoredObject(item.uri, item.size)) for item in objects.below(root))
    return _not_empty(uri, listed_folder(name.rstrip("/").rpartition("/")[2] or bucket, found))


def _fsspec_folder(url: str) -> ListedFolder:
    if archives.is_archive_name(url) and fsspec_files.is_file(url):
        return _archive_folder(url, archives.Archive(url))
    return _not_empty(url, listed_folder(fsspec_files.name(url), fsspec_files.below(url)))


def _archive_folder(images: str, archive: archives.Archive) -> ListedFolder:
    name = fsspec_files.name(images).rpartition(".")[0]
    return _not_empty(images, listed_folder(name, archives.members(archive)))


def _not_empty(images: str, folder: ListedFolder) -> ListedFolder:
    if not folder.files:
        raise UserError(
            f"--images={urls.shown(images)} holds no files or is not a folder: name the folder or zip archive of the posters"
        )
    return folder
