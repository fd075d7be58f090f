"""Which files are images: the formats that this package reads (JPEG, PNG, WebP), and those that it knows by name only.

A file is an image if its name has the extension of an image, or if it has no extension and begins like a JPEG, PNG or WebP file.
Hidden files are not images.
"""

import posixpath
import re

READ_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".jpe", ".jfif", ".pjpeg", ".pjp")
"""Extensions, in lower case, of the formats that this package reads."""

EXTENSIONS = (
    *READ_EXTENSIONS,
    *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".svg", ".ico", ".psd"),
    *(".tga", ".apng", ".ppm", ".pgm"),
)
"""Extensions of all images, in lower case: a file in a format that is not read is there too, and decoding it says why it is not
used. If several files differ only in their extension, the one whose extension comes first counts."""

NAME_END = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})(\?.*)?$", re.IGNORECASE)
"""Found at the end of a file name, path or URL (with or without a query) that has the extension of an image."""

START_BYTES = 12
"""So many bytes at the beginning of a file tell JPEG, PNG and WebP from other formats."""

_RANKS = {extension: rank for rank, extension in enumerate(EXTENSIONS)}
_OTHER_EXTENSION = re.compile(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9_]{1,8}")  # In "Dr. Who" and "Vol. 2.5" the dot begins no extension.
_MAC_FOLDER = "__MACOSX"  # macOS adds it to its archives: it holds metadata in files with the images' names.


def split(name: str) -> tuple[str, str]:
    """Splits a file name, or a path with slashes, before the extension of an image.

    Returns:
      The name without the extension, and the extension in lower case with its dot; the name and "" if it has another extension or
      none.
    """
    stem, extension = posixpath.splitext(name)
    return (stem, extension.lower()) if extension.lower() in _RANKS else (name, "")


def rank(extension: str) -> int:
    """Returns the place of an extension in `EXTENSIONS`; a name without extension comes last."""
    return _RANKS.get(extension, len(_RANKS))


def has_no_extension(name: str) -> bool:
    """Returns whether a file name has no extension, so that only the file's content tells whether it is an image."""
    return not _OTHER_EXTENSION.fullmatch(posixpath.splitext(name)[1])


def is_hidden(path: str) -> bool:
    """Returns whether a file, or a folder above it, is hidden: `.name`, macOS's `._name` and `__MACOSX`.

    Args:
      path: Relative path with slashes. A name that begins with three dots is a title's, and not hidden.
    """
    if not path.startswith((".", "_")) and "/." not in path and f"/{_MAC_FOLDER}" not in path:
        return False
    return any(part == _MAC_FOLDER or (part.startswith(".") and not part.startswith("...")) for part in path.split("/"))
