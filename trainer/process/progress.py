"""How far a long loop has come, on stderr: a bar for a person, a line now and then for a log."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
_SECONDS_BETWEEN_LINES = 10


def progress(items: Iterable[_T], *, total: int, what: str) -> Iterator[_T]:
    """Yields the items and shows their count: as a bar on a terminal, else as a line every ten seconds and one at the end.

    Args:
      items: the items.
      total: how many they will be.
      what: what is done and to what, such as "decoding pictures".
    """
    if sys.stderr.isatty():
        # Terminals that do not know their size, such as a job's, say 0 × 0, and tqdm would draw nothing.
        columns, lines = shutil.get_terminal_size()
        yield from tqdm(items, total=total, desc=what, ncols=columns, nrows=lines)
        return
    begin = time.monotonic()
    next_line = begin + _SECONDS_BETWEEN_LINES
    done = 0
    for done, item in enumerate(items, start=1):
        if time.monotonic() >= next_line:
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
            next_line += _SECONDS_BETWEEN_LINES
        yield item
    seconds = max(time.monotonic() - begin, 1e-9)
    print(f"{what}: {done:,} of {total:,} in {seconds:.1f} s, {done / seconds:,.0f} a second", file=sys.stderr, flush=True)
