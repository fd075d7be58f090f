"""Files and folders, with the same functions for a disk, a mounted bucket and Cloud Storage (gs://…).

A small file appears whole or not at all.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from etils import epath

from trainer.errors import UserError
from trainer.storage import file_systems, objects, urls
from trainer.storage.file_systems import Stat

CONNECTIONS = objects.CONNECTIONS
"""How many requests to a storage can run at once; further threads wait."""


def from_flag(flag: str, value: str) -> epath.Path:
    """Returns the path that a flag's value names; a leading `~` becomes the home folder.

    Args:
      flag: the flag with its dashes, such as `--job_dir`, for the error message.
      value: a path on a disk, or gs://BUCKET/PATH.

    Raises:
      UserError: the value is a URL other than gs://, or its bucket has an impossible name.
    """
    if urls.is_other_service(value):
        # Only the scheme: the rest may contain a password.
        raise UserError(f"{flag}={value.partition('://')[0]}://… is not supported: name a path on a disk, or gs://BUCKET/PATH")
    if in_cloud_storage(value):
        objects.parse(value)
    return epath.Path(value).expanduser()


def in_cloud_storage(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is gs://…, for the few callers that work in another way there; others use the functions below."""
    return objects.is_uri(path)


def make_folder(path: epath.Path) -> None:
    """Creates a folder and its parents. Cloud Storage has no folders: there it checks that the bucket exists.

    Raises:
      FileExistsError: a file has this name.
      UserError: the bucket does not exist, or this process may not ask.
    """
    file_systems.of(path).make_folder(path)


def exists(path: epath.Path) -> bool:
    """Returns whether a file of this name exists."""
    return file_systems.of(path).exists(path)


def is_folder(path: epath.Path) -> bool:
    """Returns whether a folder of this name exists; on Cloud Storage, whether anything lies below it."""
    return file_systems.of(path).is_folder(path)


def stat(path: epath.PathLike) -> Stat:
    """Returns a file's size and, on Cloud Storage, its CRC32C and generation.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    return file_systems.of(path).stat(path)


def checksum(path: epath.Path) -> str:
    """Returns the CRC32C of a file, big-endian, in base64. Reads a file on a disk; asks Cloud Storage, which may not have one ("").

    Raises:
      FileNotFoundError: the file does not exist.
    """
    return file_systems.of(path).checksum(path)


def read(path: epath.PathLike) -> bytes:
    """Reads a file.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    return file_systems.of(path).read(path)


def open_seekable(path: epath.PathLike, *, generation: int | None = None) -> BinaryIO:
    """Opens a file for reading at any position, by one thread; on Cloud Storage each read is a range request.

    Args:
      path: the file.
      generation: on Cloud Storage, the generation that the object must keep while it is read; None accepts the present one.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    return file_systems.of(path).open_seekable(path, generation)


def write(path: epath.Path, content: bytes) -> None:
    """Replaces a file at once: a reader, or a rerun after a kill, finds the old content or the new."""
    file_systems.of(path).write(path, content)


def remove(path: epath.Path) -> None:
    """Removes a file if it exists."""
    file_systems.of(path).remove(path)


def children(folder: epath.Path) -> list[epath.Path]:
    """Returns the files and folders directly in a folder, sorted by name; none if the folder does not exist."""
    return file_systems.of(folder).children(folder)


def remove_folder(folder: epath.Path) -> None:
    """Removes a folder and all its contents, if it exists."""
    file_systems.of(folder).remove_folder(folder)


def move(path: epath.Path, target: epath.Path) -> None:
    """Moves a file, or a folder file by file: no bucket renames a folder at once. A move that was killed can be repeated.

    Args:
      path: the file or folder to move.
      target: its new path, on the same storage.
    """
    file_systems.of(path).move(path, target)


def built_on_disk(folder: epath.Path) -> AbstractContextManager[epath.Path]:
    """Yields a folder on a disk to fill. For a `folder` on Cloud Storage its files are uploaded when the block ends.

    Many small writes to Cloud Storage are slow, and an upload through `objects` reports whether each file arrived.
    """
    return file_systems.of(folder).built_on_disk(folder)


def copied_to_disk(folder: epath.Path) -> AbstractContextManager[epath.Path]:
    """Yields a folder on a disk with the contents of `folder`: a temporary copy for Cloud Storage, else `folder` itself."""
    return file_systems.of(folder).copied_to_disk(folder)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a value as indented JSON that ends with one newline.

    Raises:
      ValueError: `value` contains a NaN or an infinity, which JSON does not have.
    """
    write(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not JSON.
    """
    return json.loads(read(path))


def csv_bytes(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns a CSV file in UTF-8: RFC 4180 with \\n as line end; a field that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
