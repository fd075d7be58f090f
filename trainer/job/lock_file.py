"""The file of a lock, which one of several that want it gets: on a disk by O_EXCL, on Cloud Storage by its generation."""

import contextlib
import errno
import os
from typing import Protocol

from etils import epath

from trainer.storage import failures, files, objects


class LockFile(Protocol):
    """What a lock needs of its file."""

    def read(self) -> bytes | None:
        """Returns the content, None where there is no file."""

    def take(self, content: bytes) -> bool:
        """Puts the content where the last `read` found no file, or an older owner's; False where another was faster."""

    def renew(self, content: bytes) -> None:
        """Replaces the content; to be called by the owner."""

    def remove(self) -> None:
        """Removes the file; to be called by the owner."""


def at(path: epath.Path) -> LockFile:
    """Returns the lock file of a path."""
    return _Object(str(path)) if files.in_cloud_storage(path) else _File(path)


class _File:
    """A file on a disk.

    On a bucket that is mounted O_EXCL holds among the processes of one machine alone; of two machines that make the file at the
    same moment the later one finds that out when it closes the file (ESTALE).
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
        """Of several that have read the same old lock one renames it away; the others find nothing, or a new one."""
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
    """An object of Cloud Storage."""

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
            # By another, or by this very call: the answer to its first try was lost. No two owners write the same.
            return self.read() == content
        return True

    def renew(self, content: bytes) -> None:
        # The next `check` finds out if another has taken it meanwhile.
        self.take(content)

    def remove(self) -> None:
        with contextlib.suppress(failures.Changed):
            objects.remove(self._uri, generation=self._generation)
