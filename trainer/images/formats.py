"""The image formats that this package reads: JPEG, PNG and WebP."""

import re

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
"""Extensions in lower case. If several files differ only in their extension, the one whose extension comes first counts."""

_NAME = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})(\?.*)?$", re.IGNORECASE)


def is_image_name(name: str) -> bool:
    """Returns whether a file name, path or URL (with or without a query) has the extension of an image."""
    return _NAME.search(name) is not None
