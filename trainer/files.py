"""Small files that appear whole or not at all, on a disk, a mounted bucket or Cloud Storage."""

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
        raise UserError(f"{flag}={value}: name a folder, or gs://BUCKET/PATH")
    if objects.is_uri(value):
        objects.parse(value)
    return epath.Path(value).expanduser()


def make_folder(path: epath.Path) -> None:
    """Makes a folder with those above it; Cloud Storage needs none."""
    if not objects.is_uri(path):
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


def move(path: epath.Path, target: epath.Path) -> None:
    """Moves a file or a folder, file by file: no bucket renames a folder at once. A move that was killed can be done again."""
    if not path.is_dir():
        path.replace(target)
        return
    make_folder(target)
    for child in path.iterdir():
        move(child, target / child.name)
    if not objects.is_uri(path):
        path.rmdir()
    elif path.exists():  # The empty object by which TensorFlow remembers a folder.
        path.rmtree()


@contextlib.contextmanager
def built_on_disk(path: epath.Path) -> Iterator[epath.Path]:
    """Lends a folder on a disk for the time of a block; what is in it then goes to `path`, if that is on Cloud Storage.

    Many small writes are slow there, and through `objects` each file is known to have arrived.
    """
    if not objects.is_uri(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as name:
        yield epath.Path(name)
        found = [file for file in sorted(Path(name).rglob("*")) if file.is_file()]
        with ThreadPoolExecutor(objects.CONNECTIONS) as pool:
            for sent in [pool.submit(objects.upload, file, f"{path}/{file.relative_to(name).as_posix()}") for file in found]:
                sent.result()


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
