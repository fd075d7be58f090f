"""What a folder of images offers, whatever storage it is in."""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


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

    def read_start(self, count: int) -> bytes:
        """Reads at most `count` bytes at the beginning of the file; raises the same errors as `read`."""


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
