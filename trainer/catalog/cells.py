"""Parses one cell of a CSV: a missing value, an image, genres, a boolean or a split."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from trainer.images import formats
from trainer.storage import urls

_MISSING = frozenset({"", "n/a", "na", "nan", "none", "null", "empty", "\\n", "[]", "(no genres listed)"})
_TRUE = frozenset({"1", "1.0", "true"})
_FALSE = frozenset({"0", "0.0", "false", ""})
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}

# The genres of IMDb, TMDB and MovieLens. They serve only to find the genre column in a file whose header does not name it.
_WELL_KNOWN = """
    action adult adventure animation biography children children's comedy crime documentary drama family fantasy film-noir foreign
    game-show history horror imax music musical mystery news reality-tv romance sci-fi science-fiction short sport talk-show
    thriller tv-movie war western
"""
_WELL_KNOWN_GENRES = frozenset(_WELL_KNOWN.split())

_IMDB_ID = re.compile(r"tt\d+")
_MAX_LIST_CHARACTERS = 10_000  # A film has a few genres; a huge input could exhaust Python's parser.
_SEPARATORS = ("|", ";", ",")


def is_missing(cell: str) -> bool:
    """Returns whether a cell marks a missing value: blank, N/A, NaN, null and similar."""
    return cell.strip().casefold() in _MISSING


def is_url(cell: str) -> bool:
    """Returns whether a cell is an http or https URL."""
    return urls.WEB.match(cell.strip()) is not None


def is_image_path(cell: str) -> bool:
    """Returns whether a cell is a file name, path or URL with the extension of an image."""
    return formats.NAME_END.search(cell.strip()) is not None


def is_imdb_id(cell: str) -> bool:
    """Returns whether a cell is an IMDb id, such as tt0078748."""
    return _IMDB_ID.fullmatch(cell.strip()) is not None


def is_film_id(cell: str) -> bool:
    """Returns whether a cell is an IMDb id or a whole number."""
    return is_imdb_id(cell) or cell.strip().isdecimal()


def is_list(cell: str) -> bool:
    """Returns whether a cell is a list in brackets, as Python or JSON writes it."""
    cell = cell.strip()
    return cell.startswith("[") and cell.endswith("]")


def is_bool(cell: str) -> bool:
    """Returns whether a cell is a boolean (0, 1, true, false …) and not blank."""
    return cell.strip() != "" and cell.strip().casefold() in _TRUE | _FALSE


def holds_known_genres(cell: str) -> bool:
    """Returns whether a cell holds only well-known genres, in any form that `parse_genres` accepts."""
    try:
        names = parse_genres(cell, find_separator([cell]))
    except ValueError:
        return False
    return bool(names) and all(name.casefold().replace(" ", "-") in _WELL_KNOWN_GENRES for name in names)


def find_separator(cells: Iterable[str]) -> str | None:
    """Returns the character that separates the genres in a column of cells, or None if there is none."""
    text = "\n".join(cell.strip() for cell in cells if not is_list(cell) and not is_missing(cell))
    return next((separator for separator in _SEPARATORS if separator in text), None)


def parse_genres(cell: str, separator: str | None) -> tuple[str, ...]:
    """Parses the genres of a film.

    Args:
      cell: A Python or JSON list of names or of objects with a "name", or names with a separator between them.
      separator: Character that separates the names in a cell that is not a list; None if such a cell holds a single name.

    Returns:
      The names in the order of the cell, stripped, without repetitions and without markers of a missing value.

    Raises:
      ValueError: The cell is a list that cannot be parsed.
    """
    cell = cell.strip()
    names = _parse_list(cell) if cell.startswith("[") else cell.split(separator) if separator else [cell]
    return tuple(dict.fromkeys(name.strip() for name in names if not is_missing(name)))


def parse_bool(cell: str) -> bool:
    """Parses a boolean: 1, 1.0 and true are true; 0, 0.0, false and a blank cell are false.

    Raises:
      ValueError: The cell has another value.
    """
    word = cell.strip().casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{cell!r} is neither 0 nor 1")


def parse_split(cell: str) -> str | None:
    """Returns the split that a cell names (`val` and `dev` mean validation, for example), or None if it names none."""
    return _SPLITS.get(cell.strip().casefold())


def _parse_list(cell: str) -> list[str]:
    if len(cell) > _MAX_LIST_CHARACTERS:
        raise ValueError(f"the list has more than {_MAX_LIST_CHARACTERS:,} characters")
    if not cell.endswith("]"):
        raise ValueError("the list has no closing bracket")
    # numpy prints arrays without commas, and Python joins string literals that have no comma between them.
    cell = re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", cell)
    for parse in (json.loads, ast.literal_eval):
        try:
            items = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        names: list[Any] = [item.get("name") if isinstance(item, dict) else item for item in items]
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise ValueError("the list holds something other than names")
        return names
    if re.search(r"['\"{}\[\]]", cell[1:-1]):
        raise ValueError("the list cannot be parsed")
    return cell[1:-1].split(",")
