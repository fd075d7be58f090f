"""Reads images from a zip archive without unpacking it to a disk.

Python's zipfile reads the table of contents once. The processes that decode the images do not need it: they read a member by its
offset, so that only that byte range of a remote archive is downloaded.
"""

import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer.dataset.rejects import Reason
from trainer.errors import TRANSIENT_ERRNOS, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import fsspec_files
from trainer.storage import failures, files, urls

# What zipfile raises on a damaged table of contents.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, LookupError, OverflowError, EOFError)

_ENCRYPTED = 0x1
_HEADER = struct.Struct("<4s22xHH")  # The local header: its signature, and the lengths of the two fields before the data.
_HEADER_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class Archive:
    """A zip archive.

    Attributes:
      location: Local path, `gs://` URI or URL that fsspec supports.
      generation: Generation of the Cloud Storage object, which must not change while it is read; None elsewhere.
    """

    location: str
    generation: int | None = None

    @property
    def is_remote(self) -> bool:
        """Whether reading it mostly means waiting for a server."""
        return "://" in self.location

    def open(self) -> Any:
        """Opens the archive for random access by one thread."""
        if urls.is_other_service(self.location):
            return fsspec_files.open_seekable(self.location)
        return files.open_seekable(self.location, generation=self.generation)


@dataclass(frozen=True)
class Member:
    """A file in an archive, as its table of contents describes it.

    Attributes:
      archive: The archive that holds the file.
      offset: Offset of the file's local header in the archive, in bytes.
      compressed_size: Size of the file in the archive, in bytes.
      size: Size of the uncompressed file, in bytes.
      crc: CRC-32 of the uncompressed file.
      method: Compression method, as zip numbers it.
      encrypted: Whether reading the file takes a password.
    """

    archive: Archive
    offset: int
    compressed_size: int
    size: int
    crc: int
    method: int
    encrypted: bool

    @property
    def is_remote(self) -> bool:
        return self.archive.is_remote

    def read(self) -> bytes:
        if self.encrypted:
            raise ImageError(Reason.NO_PICTURE, "it is encrypted in the archive")
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImageError(Reason.NO_PICTURE, f"the archive compresses it by method {self.method}, not stored or deflate")
        if max(self.size, self.compressed_size) > decode.MAX_FILE_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        compressed = self._read_compressed()
        data = compressed if self.method == zipfile.ZIP_STORED else _inflate(compressed, self.size)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise _damaged()
        return data

    def read_small(self, max_bytes: int) -> bytes | None:
        return self.read() if max(self.size, self.compressed_size) <= max_bytes else None

    def read_start(self, count: int) -> bytes:
        return self.read()[:count]  # A file without extension is rare in an archive.

    def _read_compressed(self) -> bytes:
        try:
            file = _file_of_this_thread(self.archive)
            file.seek(self.offset)
            signature, name_bytes, extra_bytes = _HEADER.unpack(_read_exactly(file, _HEADER.size))
            if signature != _HEADER_SIGNATURE:
                raise _damaged()
            file.seek(self.offset + _HEADER.size + name_bytes + extra_bytes)
            return _read_exactly(file, self.compressed_size)
        except (FileNotFoundError, failures.Changed):
            raise _was_replaced(self.archive) from None
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            raise ImageError(Reason.NO_PICTURE, f"it cannot be read: {error.strerror or type(error).__name__}") from error


def is_archive_name(value: str) -> bool:
    """Returns whether a path or URL (with or without a query) ends in .zip."""
    return re.search(r"\.zip(\?.*)?$", value, re.IGNORECASE) is not None


def members(archive: Archive) -> Iterator[tuple[str, Member]]:
    """Yields the path of each file of an archive, with forward slashes, and the file.

    Raises:
      UserError: The archive is damaged, is not a zip archive, or its server does not support random access.
      LostService: The storage of the archive does not answer.
      OSError: One of `TRANSIENT_ERRNOS`: a later try may succeed.
    """
    try:
        with archive.open() as file, zipfile.ZipFile(file) as contents:
            found = contents.infolist()
    except _DAMAGED as error:
        if isinstance(error.__context__, OSError) and error.__context__.errno in TRANSIENT_ERRNOS:
            raise error.__context__ from None  # zipfile reports a failed read as damage.
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"--images={urls.shown(archive.location)} is damaged or not a zip archive ({reason}): "
            "copy or create it again, or name a folder"
        ) from None
    except (FileNotFoundError, failures.Changed):
        raise _was_replaced(archive) from None
    for info in found:
        # Some Windows programs write backslashes.
        yield (
            info.filename.replace("\\", "/"),
            Member(
                archive,
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.compress_type,
                bool(info.flag_bits & _ENCRYPTED),
            ),
        )


_opened = threading.local()


def _file_of_this_thread(archive: Archive) -> Any:
    """Returns the archive, opened once per thread, as threads that share a file would move each other's position."""
    files = _opened.__dict__.setdefault("files", {})
    if archive not in files:
        files[archive] = archive.open()
    return files[archive]


def _read_exactly(file: Any, size: int) -> bytes:
    data = file.read(size) if size else b""
    if len(data) != size:
        raise _damaged()
    return data


def _inflate(compressed: bytes, size: int) -> bytes:
    """Inflates a member, but to at most one byte more than its declared size."""
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        return inflater.decompress(compressed, size + 1)
    except zlib.error:
        raise _damaged() from None


def _was_replaced(archive: Archive) -> UserError:
    return UserError(
        f"--images={urls.shown(archive.location)} was removed or replaced while it was read: run the same command again"
    )


def _damaged() -> ImageError:
    return ImageError(Reason.CORRUPT, "it is damaged in the archive")
