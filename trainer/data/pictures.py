"""Where the pictures of a CSV are: files of one folder, found by id or by path."""

import os
import re
from pathlib import Path, PurePosixPath

from trainer.data import cells
from trainer.data.images import PictureError
from trainer.data.rejects import Reason

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")  # Of pictures with the same name, the first one counts.
_DRIVE = re.compile(r"[A-Za-z]:")


class PictureFolder:
    """A folder of pictures, with those of its subfolders; its listing is read once.

    A path from a CSV never leads out of the folder, neither by `..` nor as an absolute path nor through a symbolic link.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()
        self._by_name = _index(folder)

    def find(self, name: str) -> Path:
        """Finds a picture.

        Args:
          name: the picture's name without extension, such as an id, or its path from the folder, with slashes or backslashes, with
            or without the folder's own name in front. An IMDb id is found with and without `tt` and leading zeros.

        Returns:
          A file that lies in the folder.

        Raises:
          PictureError: there is none, or the path leads out of the folder.
        """
        path = name.replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path):
            raise PictureError(Reason.OUTSIDE_FOLDER, f"{name!r} is an absolute path")
        if "/" in path or cells.names_picture(path):
            candidates = [self._root / path]
            first, *rest = PurePosixPath(path).parts
            if rest and first == self._root.name:
                candidates.append(self._root.joinpath(*rest))
        else:
            candidates = []
        candidates += [self._by_name[form] for form in _forms(path) if form in self._by_name]
        for candidate in candidates:
            if (file := self._inside(candidate, name)) is not None:
                return file
        raise PictureError(Reason.NO_PICTURE, f"no picture {name!r} in the folder")

    def _inside(self, candidate: Path, name: str) -> Path | None:
        try:
            file = candidate.resolve()
            if not file.is_relative_to(self._root):
                raise PictureError(Reason.OUTSIDE_FOLDER, f"{name!r} leads out of the folder of the pictures")
            return file if file.is_file() else None
        except (OSError, ValueError, RuntimeError):  # Too long a name, a zero byte, symbolic links in a circle.
            return None


def _index(folder: Path) -> dict[str, Path]:
    """Returns the pictures by their names without extension, and by their paths from the folder without extension."""
    found: dict[str, tuple[int, int, Path]] = {}
    for parent, _, files in os.walk(folder):
        for file in (Path(parent, name) for name in files):
            if file.suffix.lower() not in _EXTENSIONS:
                continue
            place = file.relative_to(folder).with_suffix("")
            # Higher up first, then the commoner extension; the path itself makes the choice independent of the listing's order.
            candidate = (len(place.parts), _EXTENSIONS.index(file.suffix.lower()), file)
            for key in {place.name, place.as_posix()}:
                found[key] = min(candidate, found.get(key, candidate))
    return {key: file for key, (_, _, file) in found.items()}


def _forms(name: str) -> list[str]:
    """Returns the ways in which a film's id is written in names of pictures, the likeliest first."""
    forms = [name]
    if match := re.fullmatch(r"(?:tt)?(\d+)", name):
        number = int(match[1])
        forms += [f"tt{number:07d}", f"{number:07d}", f"{number}", f"tt{number}"]
    return forms
