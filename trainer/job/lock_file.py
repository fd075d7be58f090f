"""The file of a lock, which only one of several takers can take: by O_EXCL on a disk, by a generation on Cloud Storage."""

import contextlib
import errno
import os
from typing import Protocol

from etils import epath

from trainer.storage import failures, files, objects


class LockFile(Protocol):
    """The operations that a lock needs on its file."""

    def read(self) -> bytes | None:
        """Returns the content, or None if there is no file."""

    def take(self, content: bytes) -> bool:
        """Writes the content if the file is still as the last `read` found it.

        Args:
          content: the new content.

        Returns:
          Whether this call took the lock; False if another process was faster.
        """

    def renew(self, content: bytes) -> None:
        """Replaces the content. Only the owner calls it."""

    def remove(self) -> None:
        """Removes the file. Only the owner calls it."""


def at(path: epath.Path) -> LockFile:
    """Returns the lock file at a path."""
    return _Object(str(path)) if files.in_cloud_storage(path) else _File(path)


class _File:
    """A file on a disk.

    On a mounted bucket O_EXCL works only among the processes of one machine. If two machines create the file at the same moment,
    the later one gets the error ESTALE when it closes the file.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self._found: bytes | None = None

    def read(self) -> bytes | None:
        try:
            self._found = self._path.read_bytes()
        except FileNotFoundError:
            self._found = None
        return self._found

    def take(self, content: bytes) -> bool:
        if self._found is not None and not self._move_away(self._found):
            return False
        try:
            with open(self._path, "xb") as file:  # noqa: PTH123 (epath has no exclusive mode)
                file.write(content)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return False
        return True

    def _move_away(self, found: bytes) -> bool:
        """Lets one of several processes that read the same old lock rename it; the others find no file, or a new one."""
        if self._path.exists() and self._path.read_bytes() != found:
            return False
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(aside)
            aside.unlink()
        return True

    def renew(self, content: bytes) -> None:
        files.write(self._path, content)

    def remove(self) -> None:
        files.remove(self._path)


class _Object:
    """An object in Cloud Storage."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._generation = 0

    def read(self) -> bytes | None:
        try:
            content, self._generation = objects.read_generation(self._uri)
        except FileNotFoundError:
            self._generation = 0
            return None
        return content

    def take(self, content: bytes) -> bool:
        try:
            self._generation = objects.write(self._uri, content, generation=self._generation)
        except failures.Changed:
            # Changed by another process, or by this call if the answer to its first try was lost. No two owners write the same.
            return self.read() == content
        return True

    def renew(self, content: bytes) -> None:
        # If another process has taken the lock, the next `check` finds out.
        self.take(content)

    def remove(self) -> None:
        with contextlib.suppress(failures.Changed):
            objects.remove(self._uri, generation=self._generation)
