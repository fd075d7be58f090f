"""Pictures in a zip archive, read where they lie: nothing is unpacked to a disk.

The table of contents is read once, by Python's zipfile. The processes that decode pictures go without it: they read a member by its
place in the archive, and so just that range of an archive on Cloud Storage.
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

# What zipfile raises on a table of contents that is not what it claims to be.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, LookupError, OverflowError, EOFError)

_ENCRYPTED = 0x1
_HEADER = struct.Struct("<4s22xHH")  # A member's own: the mark, and the lengths of two fields between it and the data.
_HEADER_MARK = b"PK\x03\x04"


@dataclass(frozen=True)
class Archive:
    """A zip archive.

    Attributes:
      place: a local path, an object of Cloud Storage or a URL of fsspec.
      generation: of an object, that it must stay of.
    """

    place: str
    generation: int | None = None

    @property
    def is_remote(self) -> bool:
        """Whether reading it is mostly waiting for an answer."""
        return "://" in self.place

    def open(self) -> Any:
        """Opens the archive for reading at any place, by one thread."""
        if urls.is_other_service(self.place):
            return fsspec_files.open_seekable(self.place)
        return files.open_seekable(self.place, generation=self.generation)


@dataclass(frozen=True)
class Member:
    """A file in an archive, as its table of contents describes it.

    Attributes:
      offset: where in the archive it begins.
      packed: how many bytes it takes there.
      size: how many bytes it has.
      crc: its CRC-32.
      method: how it is compressed.
      encrypted: whether it can be read with a password only.
    """

    archive: Archive
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool

    @property
    def waits(self) -> bool:
        return self.archive.is_remote

    def read(self) -> bytes:
        if self.encrypted:
            raise ImageError(Reason.NO_PICTURE, "it cannot be read: it is encrypted")
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImageError(Reason.NO_PICTURE, f"it cannot be read: the archive holds it compressed by method {self.method}")
        if max(self.size, self.packed) > decode.MAX_FILE_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"more than {decode.MAX_FILE_BYTES:,} bytes")
        packed = self._packed()
        data = packed if self.method == zipfile.ZIP_STORED else _inflated(packed, self.size)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise _damaged()
        return data

    def read_small(self, most: int) -> bytes | None:
        return self.read() if max(self.size, self.packed) <= most else None

    def _packed(self) -> bytes:
        try:
            file = _file_of_this_thread(self.archive)
            file.seek(self.offset)
            mark, name_bytes, extra_bytes = _HEADER.unpack(_exactly(file, _HEADER.size))
            if mark != _HEADER_MARK:
                raise _damaged()
            file.seek(self.offset + _HEADER.size + name_bytes + extra_bytes)
            return _exactly(file, self.packed)
        except (FileNotFoundError, failures.Changed):
            raise _was_replaced(self.archive) from None
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            raise ImageError(Reason.NO_PICTURE, f"it cannot be read: {error.strerror or type(error).__name__}") from error


def is_archive_name(value: str) -> bool:
    """Whether a path or URL ends in .zip, what follows a question mark aside."""
    return re.search(r"\.zip(\?.*)?$", value, re.IGNORECASE) is not None


def members(archive: Archive) -> Iterator[tuple[str, Member]]:
    """Yields the files of an archive by their paths, with slashes.

    Raises:
      UserError: it is damaged, or cannot be read at any place.
    """
    try:
        with archive.open() as file, zipfile.ZipFile(file) as contents:
            found = contents.infolist()
    except _DAMAGED as error:
        if isinstance(error.__context__, OSError) and error.__context__.errno in TRANSIENT_ERRNOS:
            raise error.__context__ from None  # Which zipfile takes for damage.
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"--images={urls.shown(archive.place)} is damaged or no zip archive ({reason}): copy or pack it again, or name a folder"
        ) from None
    except (FileNotFoundError, failures.Changed):
        raise _was_replaced(archive) from None
    for info in found:
        # Some programs for Windows write backslashes.
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
    """Returns the archive, opened once for each thread: two threads cannot each be at their own place in one file."""
    files = _opened.__dict__.setdefault("files", {})
    if archive not in files:
        files[archive] = archive.open()
    return files[archive]


def _exactly(file: Any, size: int) -> bytes:
    data = file.read(size) if size else b""
    if len(data) != size:
        raise _damaged()
    return data


def _inflated(packed: bytes, size: int) -> bytes:
    """Inflates a member; one byte more than it is said to have is never made."""
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        return inflater.decompress(packed, size + 1)
    except zlib.error:
        raise _damaged() from None


def _was_replaced(archive: Archive) -> UserError:
    return UserError(f"--images={urls.shown(archive.place)} was removed or replaced while it was read: run again")


def _damaged() -> ImageError:
    return ImageError(Reason.CORRUPT, "it is damaged in the archive")
