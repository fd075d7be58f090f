"""Tables for the terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """Returns rows of equal length as lines of aligned columns, without trailing spaces.

    Args:
      rows: the cells of each row.
      text_columns: the number of leading columns to align to the left, as text; the others are aligned to the right, as numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
