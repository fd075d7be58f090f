"""Zip archives with a single member."""

import zipfile
from pathlib import Path

from trainer.sources import archives
from trainer.sources.archives import Archive, Member

CONTENT = b"an image" * 1000


def pack(path: Path, *, method: int = zipfile.ZIP_DEFLATED, name: str = "a.jpg", content: bytes = CONTENT) -> Path:
    """Writes an archive, and returns its path."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def only_member(path: Path) -> Member:
    """Returns the member of an archive."""
    ((_, member),) = archives.members(Archive(str(path)))
    return member
