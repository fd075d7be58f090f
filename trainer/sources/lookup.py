"""Which file of a folder a CSV means: found by id or by path, wherever the folder is."""

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
_MAC_FOLDER = "__MACOSX"  # What macOS adds to its archives: files of other content with the names of the pictures.


class ImageFile(Protocol):
    """A picture file, wherever it is; small, and can be sent to another process."""

    @property
    def waits(self) -> bool:
        """Whether reading it is mostly waiting for an answer."""

    def read(self) -> bytes:
        """Reads all of it.

        Raises:
          PictureError: it cannot be read, or has more than `images.MAX_FILE_BYTES`.
          UserError: nothing there can be read.
          LostService: what holds it does not answer.
          OSError: of `TRANSIENT_ERRNOS`; it may be read later.
        """

    def read_small(self, most: int) -> bytes | None:
        """Reads all of it, as `read` does, or returns None where it has more bytes than that, of which no more are held."""


class LeadsOut(Exception):
    """A path leads out of the folder, through a symbolic link say."""


class Files(Protocol):
    """The files of a folder.

    Attributes:
      name: the folder's own.
    """

    @property
    def name(self) -> str: ...

    def paths(self) -> Iterable[str]:
        """Returns the paths of all files from the folder, with slashes."""

    def get(self, path: str) -> ImageFile | None:
        """Returns the file with a path, one without `..`, or None where there is none.

        Raises:
          LeadsOut: the file lies outside the folder.
        """


@dataclass(frozen=True)
class Listed:
    """The files that a listing names; no other can be reached."""

    name: str
    images: Mapping[str, ImageFile]

    def paths(self) -> Iterable[str]:
        return self.images

    def get(self, path: str) -> ImageFile | None:
        return self.images.get(path)


def listed(name: str, images: Iterable[tuple[str, ImageFile]]) -> Listed:
    """Returns the files of a listing, without the marks of folders and names that a folder's file cannot have."""
    found: dict[str, ImageFile] = {}
    for path, image in images:
        inside = posixpath.normpath(path)
        if path.endswith("/") or inside.startswith("/") or inside in (".", "..") or inside.startswith("../"):
            continue
        # Cloud Storage tells a//b from a/b; who has the exact name is meant.
        if inside == path or inside not in found:
            found[inside] = image
    return Listed(name, found)


class ImageFolder:
    """A folder of pictures, with those of its subfolders; its listing is read once.

    A path from a CSV never leads out of the folder, neither by `..` nor as an absolute path nor through a symbolic link.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._by_name, self._only_top = _index(files.paths())

    def find(self, name: str) -> ImageFile:
        """Finds a picture.

        Args:
          name: the picture's name without extension, such as an id, or its path from the folder, with slashes or backslashes, with
            or without the folder's own name in front; where all pictures lie in one subfolder, as in many archives, its path from
            there will do. An IMDb id is found with and without `tt` and leading zeros.

        Returns:
          A file that lies in the folder.

        Raises:
          PictureError: there is none, or the path leads out of the folder.
        """
        path = name.replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path):
            raise ImageError(Reason.OUTSIDE_FOLDER, f"{name!r} is an absolute path")
        for candidate in self._candidates(path):
            inside = posixpath.normpath(candidate)
            try:
                if inside == ".." or inside.startswith("../"):
                    raise LeadsOut
                image = self._files.get(inside)
            except LeadsOut:
                raise ImageError(Reason.OUTSIDE_FOLDER, f"{name!r} leads out of the folder of the pictures") from None
            if image is not None:
                return image
        raise ImageError(Reason.NO_PICTURE, f"no picture {name!r} in the folder")

    def _candidates(self, path: str) -> Iterable[str]:
        if "/" in path or formats.is_image_name(path.strip()):
            yield path
            parts = PurePosixPath(path).parts
            if parts[1:] and parts[0] == self._files.name:
                yield "/".join(parts[1:])
            if self._only_top:
                yield f"{self._only_top}/{path}"
        yield from (self._by_name[form] for form in _forms(path) if form in self._by_name)


def _index(paths: Iterable[str]) -> tuple[dict[str, str], str | None]:
    """Indexes pictures.

    Returns:
      The paths of the pictures by their names without extension and by their paths without extension; and the one folder that all
      of them lie in, if there is one.
    """
    found: dict[str, tuple[int, int, tuple[str, ...], str]] = {}
    tops: set[str | None] = set()
    for path in paths:
        file = PurePosixPath(path)
        if file.suffix.lower() not in formats.EXTENSIONS or _MAC_FOLDER in file.parts:
            continue
        tops.add(file.parts[0] if len(file.parts) > 1 else None)
        place = file.with_suffix("")
        # Higher up first, then the commoner extension; the path itself makes the choice independent of the listing's order.
        candidate = (len(place.parts), formats.EXTENSIONS.index(file.suffix.lower()), file.parts, path)
        for key in {place.name, place.as_posix()}:
            found[key] = min(candidate, found.get(key, candidate))
    only_top = tops.pop() if len(tops) == 1 else None
    return {key: path for key, (*_, path) in found.items()}, only_top


def _forms(name: str) -> list[str]:
    """Returns the ways in which a film's id is written in names of pictures, the likeliest first."""
    forms = [name]
    if match := re.fullmatch(r"(?:tt)?(\d+)", name):
        number = int(match[1])
        forms += [f"tt{number:07d}", f"{number:07d}", f"{number}", f"tt{number}"]
    return forms
