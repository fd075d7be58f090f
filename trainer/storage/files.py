"""Files and folders, alike on a disk, a mounted bucket and Cloud Storage; a small file appears whole or not at all."""

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath

from trainer.errors import UserError
from trainer.storage import objects


def place(flag: str, value: str) -> epath.Path:
    """The path that a flag names.

    Raises:
      UserError: it is an address of neither a file system nor Cloud Storage.
    """
    if "://" in value and not objects.is_uri(value):
        # Not the whole of it: it may have a password in it.
        raise UserError(f"{flag}={value.partition('://')[0]}://…: name a folder, or gs://BUCKET/PATH")
    if objects.is_uri(value):
        objects.parse(value)
    return epath.Path(value).expanduser()


def make_folder(path: epath.Path) -> None:
    """Makes a folder with those above it; Cloud Storage needs a bucket alone, which must be there."""
    if objects.is_uri(path):
        objects.check_bucket(str(path))
    else:
        path.mkdir(parents=True, exist_ok=True)


def exists(path: epath.Path) -> bool:
    """Whether there is a file of this name."""
    if not objects.is_uri(path):
        return path.exists()
    try:
        objects.stat(str(path))
    except FileNotFoundError:
        return False
    return True


def read(path: epath.Path) -> bytes:
    """Reads a file.

    Raises:
      FileNotFoundError: there is none.
    """
    return objects.read(str(path)) if objects.is_uri(path) else path.read_bytes()


def write(path: epath.Path, content: bytes) -> None:
    """Replaces a file at once: a reader, or a rerun after a kill, finds the old content or the new."""
    if objects.is_uri(path):
        objects.write(str(path), content)
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def remove(path: epath.Path) -> None:
    """Removes a file, if there is one."""
    if objects.is_uri(path):
        objects.remove(str(path))
    else:
        path.unlink(missing_ok=True)


def children(folder: epath.Path) -> list[epath.Path]:
    """The files and folders right in a folder, by name; none where there is no such folder."""
    if objects.is_uri(folder):
        return [folder / name for name in objects.names(str(folder))]
    return sorted(folder.iterdir()) if folder.exists() else []


def remove_folder(folder: epath.Path) -> None:
    """Removes a folder with all that is in it, if there is one."""
    if objects.is_uri(folder):
        _side_by_side([(objects.remove, found.uri) for found in objects.below(str(folder))])
    elif folder.is_dir():
        folder.rmtree()


def move(path: epath.Path, target: epath.Path) -> None:
    """Moves a file or a folder, file by file: no bucket renames a folder at once. A move that was killed can be done again."""
    if objects.is_uri(path):
        source = str(path)
        found = [source] if exists(path) else [entry.uri for entry in objects.below(source)]
        _side_by_side([(_move_object, uri, f"{target}{uri.removeprefix(source)}") for uri in found])
    elif path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for child in path.iterdir():
            move(child, target / child.name)
        path.rmdir()
    else:
        path.replace(target)


def _move_object(uri: str, target: str) -> None:
    objects.copy(uri, target)
    objects.remove(uri)


@contextlib.contextmanager
def built_on_disk(folder: epath.Path) -> Iterator[epath.Path]:
    """Lends a folder on a disk for the time of a block; what is in it then goes to `folder`, if that is on Cloud Storage.

    There many small writes are slow, and through `objects` each file is known to have arrived.
    """
    if not objects.is_uri(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield epath.Path(name)
        found = [file for file in sorted(Path(name).rglob("*")) if file.is_file()]
        _side_by_side([(objects.upload, file, f"{folder}/{file.relative_to(name).as_posix()}") for file in found])


@contextlib.contextmanager
def copied_to_disk(folder: epath.Path) -> Iterator[epath.Path]:
    """Lends a folder on a disk, for the time of a block, with what is in `folder`; that itself where it is on one."""
    if not objects.is_uri(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        found = [item.uri for item in objects.below(str(folder)) if not item.uri.endswith("/")]
        _side_by_side([(_copy_to_disk, uri, Path(name), uri.removeprefix(f"{folder}/")) for uri in found])
        yield epath.Path(name)


def _copy_to_disk(uri: str, folder: Path, name: str) -> None:
    # Unlike a file an object may be called `../x`, or `/x`.
    if not set(name.split("/")).isdisjoint(("", ".", "..")):
        raise UserError(f"{uri} has a name that leads out of its folder: remove it, or name another folder")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(objects.read(uri))


def _side_by_side(calls: Iterable[tuple[Any, ...]]) -> None:
    """Makes calls of Cloud Storage in threads; raises what the first of them raises that fails."""
    with ThreadPoolExecutor(objects.CONNECTIONS) as pool:
        for call in [pool.submit(*call) for call in calls]:
            call.result()


def write_json(path: epath.Path, value: Any) -> None:
    """Writes indented JSON with one ending newline.

    Raises:
      ValueError: there is a NaN or an infinity in `value`, which JSON does not have.
    """
    write(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not JSON.
    """
    return json.loads(read(path))


def csv_bytes(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV in UTF-8, as RFC 4180 has it but with bare newlines; a field that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
