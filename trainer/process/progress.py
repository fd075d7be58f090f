"""The progress of a long loop on stderr: a bar on a terminal, a line every ten seconds in a log."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
_SECONDS_BETWEEN_LINES = 10


def bar(items: Iterable[_T] | None = None, **options: Any) -> "tqdm[Any]":
    """Returns a progress bar on stderr that fits the terminal.

    Args:
      items: the items to pass on; None for a bar that its user moves.
      **options: more arguments of tqdm.
    """
    # A terminal that does not know its size reports 0 x 0, for which tqdm draws nothing.
    columns, lines = shutil.get_terminal_size()
    return tqdm(items, ncols=columns, nrows=lines, **options)


def progress(items: Iterable[_T], *, total: int, what: str) -> Iterator[_T]:
    """Yields the items and shows how many there were: as a bar on a terminal, else as a line every ten seconds and one at the end.

    Args:
      items: the items to pass on.
      total: the number of items.
      what: the work and its objects, such as "decoding images".
    """
    if sys.stderr.isatty():
        yield from bar(items, total=total, desc=what)
        return
    begin = time.monotonic()
    next_line = begin + _SECONDS_BETWEEN_LINES
    done = 0
    for done, item in enumerate(items, start=1):
        if time.monotonic() >= next_line:
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr)
            next_line += _SECONDS_BETWEEN_LINES
        yield item
    seconds = max(time.monotonic() - begin, 1e-9)
    print(f"{what}: {done:,} of {total:,} in {seconds:.1f} s, {done / seconds:,.0f} a second", file=sys.stderr)
