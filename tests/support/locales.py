"""A machine whose locale knows ASCII alone, as in many containers: files must be UTF-8 there too."""

import contextlib
import locale
from collections.abc import Iterator


@contextlib.contextmanager
def ascii_only() -> Iterator[None]:
    """Gives the process the locale C within a block."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
