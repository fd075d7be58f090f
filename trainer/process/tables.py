"""Tables for the terminal."""

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Returns the columns that a text takes in a terminal: a Chinese, Japanese or Korean character two, a combining mark none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def aligned(rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Returns rows of equal length as lines of aligned columns, without trailing spaces.

    Args:
      rows: the cells of each row.
      text_columns: the number of leading columns to align to the left, as text; the others are aligned to the right, as numbers.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        spaces = [" " * (widest - width(cell)) for cell, widest in zip(row, widths, strict=True)]
        cells = [
            cell + space if index < text_columns else space + cell
            for index, (cell, space) in enumerate(zip(row, spaces, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
