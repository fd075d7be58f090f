"""Finds the delimiter of a CSV, from its first lines."""

import itertools
from collections.abc import Sequence

from trainer.catalog import cells
from trainer.catalog.genres import lists
from trainer.catalog.tables.records import Dialect, Records

# If several would do, the first one counts: commas also occur inside URLs and genres, bars and blanks even more often.
_DELIMITERS = ("::", "\t", ";", ",", " ", "|")
_SAMPLE_RECORDS = 200
_MIN_REGULARITY = 0.8  # With the right delimiter, at least this share of the records has as many fields as the first one.


def find(lines: Sequence[str]) -> Dialect:
    """Finds how the fields of a CSV are separated.

    Args:
      lines: The first lines of the file, with their ends.

    Returns:
      The dialect. A file whose delimiter is two colons (MovieLens) knows no quoting.
    """
    regularity: dict[str, float] = {}
    regular: dict[str, list[list[str]]] = {}
    for delimiter in _DELIMITERS:
        records = list(itertools.islice(Records(lines, _dialect(delimiter)), _SAMPLE_RECORDS))
        widths = [width(fields) for fields in records]
        if widths and widths[0] > 1:
            regularity[delimiter] = widths.count(widths[0]) / len(widths)
            if regularity[delimiter] >= _MIN_REGULARITY:
                regular[delimiter] = records
    for delimiter, records in regular.items():
        # The films of a small file may all have the same number of genres by chance, and so equally long lines.
        if delimiter == " " and sum(map(cells.holds_known_genres, records[-1])) > 1:
            return Dialect(None)
        # Of tt1,Horror;Sci-Fi both characters are regular by chance; but only the comma leaves a film's id alone.
        if _names_films(records) or not any(map(_names_films, regular.values())):
            return _dialect(delimiter)
    starts = [line.split(maxsplit=1) for line in lines[:_SAMPLE_RECORDS] if line.strip()]
    if all(len(start) == 2 and is_film(start[0]) for start in starts[1:]):
        return Dialect(None)
    return _dialect(max(regularity, key=lambda delimiter: regularity[delimiter], default=","))


def is_film(cell: str) -> bool:
    """Returns whether a cell is an id or the image of a film."""
    return cells.is_film_id(cell) or cells.is_image_path(cell)


def _dialect(delimiter: str) -> Dialect:
    return Dialect(delimiter, quoting=len(delimiter) == 1)


def _names_films(records: Sequence[Sequence[str]]) -> bool:
    """Returns whether a column names the films in all rows but the first, which may be a header."""
    return any(all(map(is_film, column)) for column in zip(*records[1:], strict=False))


def width(fields: Sequence[str]) -> int:
    """Returns the number of fields of a record, or 0 if the delimiter has cut a list in brackets."""
    return len(fields) if all(_is_whole(field) for field in fields) else 0


def _is_whole(field: str) -> bool:
    return all(field.count(opening) == field.count(closing) for opening, closing in lists.BRACKETS)
