"""Finds the image file that a CSV names, by id or by path, in any kind of folder."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from trainer.dataset.rejects import Reason
from trainer.images import formats
from trainer.images.decode import ImageError

_DRIVE = re.compile(r"[A-Za-z]:")
_MAC_FOLDER = "__MACOSX"  # macOS adds it to its archives: it holds metadata in files with the images' names.


class ImageFile(Protocol):
    """An image file in any storage. It is small and can be pickled to another process."""

    @property
    def is_remote(self) -> bool:
        """Whether reading it mostly means waiting for a server."""

    def read(self) -> bytes:
        """Reads the whole file.

        Raises:
          ImageError: The file cannot be read, or has more than `decode.MAX_FILE_BYTES`.
          UserError: The storage refuses all reads.
          LostService: The storage does not answer.
          OSError: One of `TRANSIENT_ERRNOS`: a later try may succeed.
        """

    def read_small(self, max_bytes: int) -> bytes | None:
        """Reads the whole file as `read` does, or returns None if it is larger. Never holds more than `max_bytes` + 1 bytes."""


class OutsideFolderError(Exception):
    """A path leads out of the folder, through a symbolic link for example."""


class Folder(Protocol):
    """A folder in any storage, with its subfolders."""

    @property
    def name(self) -> str:
        """The folder's own name."""

    def paths(self) -> Iterable[str]:
        """Returns the paths of all files, relative to the folder and with forward slashes."""

    def get(self, path: str) -> ImageFile | None:
        """Returns the file at a relative path (without `..`), or None if there is none.

        Raises:
          OutsideFolderError: The file lies outside the folder.
        """


@dataclass(frozen=True)
class ListedFolder:
    """A folder whose files were listed once; only those files can be read."""

    name: str
    files: Mapping[str, ImageFile]

    def paths(self) -> Iterable[str]:
        return self.files

    def get(self, path: str) -> ImageFile | None:
        return self.files.get(path)


def listed_folder(name: str, files: Iterable[tuple[str, ImageFile]]) -> ListedFolder:
    """Makes a folder of a listing.

    Args:
      name: The folder's own name.
      files: Relative path and file of each entry. Entries that stand for folders or lead out of the folder are left out.

    Returns:
      The folder, with normalized paths.
    """
    found: dict[str, ImageFile] = {}
    for path, file in files:
        inside = posixpath.normpath(path)
        if path.endswith("/") or inside.startswith("/") or inside in (".", "..") or inside.startswith("../"):
            continue
        # To Cloud Storage a//b and a/b are two objects; the one whose name is normal already counts.
        if inside == path or inside not in found:
            found[inside] = file
    return ListedFolder(name, found)


class ImageFinder:
    """Finds images in a folder and its subfolders. The folder is listed once.

    No path from a CSV leads out of the folder: not by `..`, not as an absolute path, not through a symbolic link.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._path_of_stem, self._only_top = _index(folder.paths())

    def find(self, name: str) -> ImageFile:
        """Finds an image.

        Args:
          name: One of the following. An IMDb id matches with and without `tt` and leading zeros.
            - The image's name without extension, such as an id.
            - Its path relative to the folder, with slashes or backslashes, with or without the folder's own name in front.
            - If all images lie in one subfolder, as in many archives: its path relative to that subfolder.

        Returns:
          A file inside the folder.

        Raises:
          ImageError: No image matches, or the path leads out of the folder.
        """
        path = name.replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path):
            raise ImageError(Reason.OUTSIDE_FOLDER, f"{name!r} is an absolute path")
        for candidate in self._candidates(path):
            inside = posixpath.normpath(candidate)
            try:
                if inside == ".." or inside.startswith("../"):
                    raise OutsideFolderError
                file = self._folder.get(inside)
            except OutsideFolderError:
                raise ImageError(Reason.OUTSIDE_FOLDER, f"{name!r} leads out of the image folder") from None
            if file is not None:
                return file
        raise ImageError(Reason.NO_PICTURE, f"no image {name!r} in the folder")

    def _candidates(self, path: str) -> Iterable[str]:
        if "/" in path or formats.NAME_END.search(path.strip()):
            yield path
            parts = PurePosixPath(path).parts
            if parts[1:] and parts[0] == self._folder.name:
                yield "/".join(parts[1:])
            if self._only_top:
                yield f"{self._only_top}/{path}"
        yield from (self._path_of_stem[form] for form in _spellings(path) if form in self._path_of_stem)


def _index(paths: Iterable[str]) -> tuple[dict[str, str], str | None]:
    """Indexes the images of a folder.

    Args:
      paths: Relative paths of all files of the folder.

    Returns:
      The images' paths by name without extension and by path without extension; and the one top-level subfolder that all images
      lie in, or None.
    """
    found: dict[str, tuple[int, int, tuple[str, ...], str]] = {}
    tops: set[str | None] = set()
    for path in paths:
        file = PurePosixPath(path)
        if file.suffix.lower() not in formats.EXTENSIONS or _MAC_FOLDER in file.parts:
            continue
        tops.add(file.parts[0] if len(file.parts) > 1 else None)
        stem = file.with_suffix("")
        # Prefer the higher folder, then the commoner extension, then the path: so the listing's order does not matter.
        candidate = (len(stem.parts), formats.EXTENSIONS.index(file.suffix.lower()), file.parts, path)
        for key in {stem.name, stem.as_posix()}:
            found[key] = min(candidate, found.get(key, candidate))
    only_top = tops.pop() if len(tops) == 1 else None
    return {key: path for key, (*_, path) in found.items()}, only_top


def _spellings(name: str) -> list[str]:
    """Returns the ways to write a film's id in an image's name, the likeliest first."""
    spellings = [name]
    if match := re.fullmatch(r"(?:tt)?(\d+)", name):
        number = int(match[1])
        spellings += [f"tt{number:07d}", f"{number:07d}", f"{number}", f"tt{number}"]
    return spellings
