"""How launch shows what it knows: notes on stderr, tables on stdout."""

import datetime
import sys
from collections.abc import Sequence


def note(text: str) -> None:
    """Tells the user something, in a line of stderr."""
    print(f"launch: {text}", file=sys.stderr)


def table(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows of equal length, the first of them the heads, with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(moment: datetime.datetime) -> str:
    """How long ago a moment was, in its largest unit."""
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
