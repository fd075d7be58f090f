"""The image formats that this package reads: JPEG, PNG and WebP."""

import re

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
"""Extensions in lower case. If several files differ only in their extension, the one whose extension comes first counts."""

NAME_END = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})(\?.*)?$", re.IGNORECASE)
"""Found at the end of a file name, path or URL (with or without a query) that has the extension of an image."""
