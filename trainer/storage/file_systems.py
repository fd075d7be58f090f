"""The two kinds of storage behind `files`: a disk (or mounted bucket), and Cloud Storage. Only `of` chooses between them."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from etils import epath

from trainer.errors import UserError
from trainer.storage import objects

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stat:
    """What a storage knows about a file without reading it.

    Attributes:
      size: the number of bytes.
      crc32c: the CRC32C, big-endian, in base64; empty where the storage keeps none.
      generation: a number that changes with every write; None where the storage keeps none.
    """

    size: int
    crc32c: str = ""
    generation: int | None = None


class FileSystem(Protocol):
    """What every storage offers; the functions of `files` with the same names document each operation."""

    def make_folder(self, path: epath.Path) -> None: ...

    def exists(self, path: epath.Path) -> bool: ...

    def is_folder(self, path: epath.Path) -> bool: ...

    def stat(self, path: epath.PathLike) -> Stat: ...

    def checksum(self, path: epath.Path) -> str: ...

    def read(self, path: epath.PathLike) -> bytes: ...

    def open_seekable(self, path: epath.PathLike, generation: int | None) -> BinaryIO: ...

    def write(self, path: epath.Path, content: bytes) -> None: ...

    def remove(self, path: epath.Path) -> None: ...

    def children(self, folder: epath.Path) -> list[epath.Path]: ...

    def remove_folder(self, folder: epath.Path) -> None: ...

    def move(self, path: epath.Path, target: epath.Path) -> None: ...

    def built_on_disk(self, folder: epath.Path) -> AbstractContextManager[epath.Path]: ...

    def copied_to_disk(self, folder: epath.Path) -> AbstractContextManager[epath.Path]: ...


class Disk:
    """A disk of this machine, a network file system or a mounted bucket."""

    def make_folder(self, path: epath.Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def exists(self, path: epath.Path) -> bool:
        return path.exists()

    def is_folder(self, path: epath.Path) -> bool:
        return path.is_dir()

    def stat(self, path: epath.PathLike) -> Stat:
        # Not epath's stat, which also looks up the owner's name and fails in a container that does not know it.
        return Stat(Path(path).stat().st_size)

    def checksum(self, path: epath.Path) -> str:
        with path.open("rb") as file:
            return objects.crc32c(iter(lambda: file.read(_CHUNK_BYTES), b""))

    def read(self, path: epath.PathLike) -> bytes:
        return Path(path).read_bytes()

    def open_seekable(self, path: epath.PathLike, generation: int | None) -> BinaryIO:
        return Path(path).open("rb")

    def write(self, path: epath.Path, content: bytes) -> None:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)

    def remove(self, path: epath.Path) -> None:
        path.unlink(missing_ok=True)

    def children(self, folder: epath.Path) -> list[epath.Path]:
        return sorted(folder.iterdir()) if folder.exists() else []

    def remove_folder(self, folder: epath.Path) -> None:
        if folder.is_dir():
            folder.rmtree()

    def move(self, path: epath.Path, target: epath.Path) -> None:
        if not path.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            return
        target.mkdir(parents=True, exist_ok=True)
        for child in path.iterdir():
            self.move(child, target / child.name)
        path.rmdir()

    def built_on_disk(self, folder: epath.Path) -> AbstractContextManager[epath.Path]:
        return contextlib.nullcontext(folder)

    def copied_to_disk(self, folder: epath.Path) -> AbstractContextManager[epath.Path]:
        return contextlib.nullcontext(folder)


class CloudStorage:
    """Buckets, through Google's client."""

    def make_folder(self, path: epath.Path) -> None:
        # A bucket has no folders; only the bucket itself must exist.
        objects.check_bucket(str(path))

    def exists(self, path: epath.Path) -> bool:
        try:
            objects.stat(str(path))
        except FileNotFoundError:
            return False
        return True

    def is_folder(self, path: epath.Path) -> bool:
        return bool(self.children(path))

    def stat(self, path: epath.PathLike) -> Stat:
        found = objects.stat(str(path))
        return Stat(found.size, found.crc32c, found.generation)

    def checksum(self, path: epath.Path) -> str:
        return objects.stat(str(path)).crc32c

    def read(self, path: epath.PathLike) -> bytes:
        return objects.read(str(path))

    def open_seekable(self, path: epath.PathLike, generation: int | None) -> BinaryIO:
        return cast(BinaryIO, objects.reader(str(path), generation=generation))

    def write(self, path: epath.Path, content: bytes) -> None:
        objects.write(str(path), content)

    def remove(self, path: epath.Path) -> None:
        objects.remove(str(path))

    def children(self, folder: epath.Path) -> list[epath.Path]:
        return [folder / name for name in objects.names(str(folder))]

    def remove_folder(self, folder: epath.Path) -> None:
        _in_parallel(objects.remove, [(found.uri,) for found in objects.below(str(folder))])

    def move(self, path: epath.Path, target: epath.Path) -> None:
        source = str(path)
        found = [source] if self.exists(path) else [entry.uri for entry in objects.below(source)]
        _in_parallel(_move_object, [(uri, f"{target}{uri.removeprefix(source)}") for uri in found])

    @contextlib.contextmanager
    def built_on_disk(self, folder: epath.Path) -> Iterator[epath.Path]:
        with tempfile.TemporaryDirectory() as name:
            yield epath.Path(name)
            found = [file for file in sorted(Path(name).rglob("*")) if file.is_file()]
            _in_parallel(objects.upload, [(file, f"{folder}/{file.relative_to(name).as_posix()}") for file in found])

    @contextlib.contextmanager
    def copied_to_disk(self, folder: epath.Path) -> Iterator[epath.Path]:
        with tempfile.TemporaryDirectory() as name:
            found = [item.uri for item in objects.below(str(folder)) if not item.uri.endswith("/")]
            _in_parallel(_download, [(uri, Path(name), uri.removeprefix(f"{folder}/")) for uri in found])
            yield epath.Path(name)


_DISK = Disk()
_CLOUD_STORAGE = CloudStorage()


def of(path: str | os.PathLike[str]) -> FileSystem:
    """Returns the storage that holds a path: Cloud Storage for gs://…, else the disk."""
    return _CLOUD_STORAGE if objects.is_uri(path) else _DISK


def _move_object(uri: str, target: str) -> None:
    objects.copy(uri, target)
    objects.remove(uri)


def _download(uri: str, folder: Path, name: str) -> None:
    # Unlike a file, an object may be named `../x` or `/x`.
    if not set(name.split("/")).isdisjoint(("", ".", "..")):
        raise UserError(f"{uri} has a name that leads out of its folder: remove it, or name another folder")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(objects.read(uri))


def _in_parallel(function: Callable[..., object], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Calls a function of Cloud Storage in threads, once for each tuple of arguments; raises the first error, in their order."""
    with ThreadPoolExecutor(objects.CONNECTIONS) as pool:
        for call in [pool.submit(function, *each) for each in arguments]:
            call.result()
