"""What one cell of a CSV says: nothing, a picture, genres, yes or no, a split."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from trainer.images import formats
from trainer.storage import urls

_MISSING = frozenset({"", "n/a", "na", "nan", "none", "null", "empty", "\\n", "[]", "(no genres listed)"})
_YES = frozenset({"1", "1.0", "true"})
_NO = frozenset({"0", "0.0", "false", ""})
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

# The genres of IMDb, TMDB and MovieLens. They only serve to find the column of the genres in a file that does not name it.
_WELL_KNOWN = """
    action adult adventure animation biography children children's comedy crime documentary drama family fantasy film-noir foreign
    game-show history horror imax music musical mystery news reality-tv romance sci-fi science-fiction short sport talk-show
    thriller tv-movie war western
"""
_WELL_KNOWN_GENRES = frozenset(_WELL_KNOWN.split())

_IMDB_ID = re.compile(r"tt\d+")
_LONGEST_LIST = 10_000  # Characters; a film has a few genres, and Python's parser is not to be fed with more.
_SEPARATORS = ("|", ";", ",")


def is_missing(cell: str) -> bool:
    """Whether a cell stands for no value: blank, N/A, NaN, null and the like."""
    return cell.strip().casefold() in _MISSING


def is_url(cell: str) -> bool:
    """Whether a cell is an http or https address."""
    return urls.is_web(cell.strip())


def names_image(cell: str) -> bool:
    """Whether a cell is a file name, path or address with the extension of a picture."""
    return formats.is_image_name(cell.strip())


def is_imdb_id(cell: str) -> bool:
    """Whether a cell is an id of IMDb, such as tt0078748."""
    return _IMDB_ID.fullmatch(cell.strip()) is not None


def is_film_id(cell: str) -> bool:
    """Whether a cell is an IMDb id or a whole number."""
    return is_imdb_id(cell) or cell.strip().isdecimal()


def is_list(cell: str) -> bool:
    """Whether a cell is a list in brackets, of Python or JSON."""
    cell = cell.strip()
    return cell.startswith("[") and cell.endswith("]")


def is_zero_or_one(cell: str) -> bool:
    """Whether a cell says yes or no, and is not blank."""
    return cell.strip() != "" and cell.strip().casefold() in _YES | _NO


def names_genres(cell: str) -> bool:
    """Whether a cell holds nothing but well-known genres, in any form that `parse_genres` takes."""
    try:
        names = parse_genres(cell, separator_of([cell]))
    except ValueError:
        return False
    return bool(names) and all(name.casefold().replace(" ", "-") in _WELL_KNOWN_GENRES for name in names)


def separator_of(cells: Iterable[str]) -> str | None:
    """Returns what separates the genres in a column of cells, or None where nothing does."""
    text = "\n".join(cell.strip() for cell in cells if not is_list(cell) and not is_missing(cell))
    return next((separator for separator in _SEPARATORS if separator in text), None)


def parse_genres(cell: str, separator: str | None) -> tuple[str, ...]:
    """Reads the genres of a film.

    Args:
      cell: a Python or JSON list of names or of objects with a "name", or names with a separator between them.
      separator: what stands between names that are in no list; None if nothing does.

    Returns:
      The names, stripped, each once, without those that stand for no value, in the order of the cell.

    Raises:
      ValueError: the cell is a list that cannot be read.
    """
    cell = cell.strip()
    names = _parse_list(cell) if cell.startswith("[") else cell.split(separator) if separator else [cell]
    return tuple(dict.fromkeys(name.strip() for name in names if not is_missing(name)))


def parse_yes_or_no(cell: str) -> bool:
    """Reads 1, 1.0, true or 0, 0.0, false or nothing, which is no.

    Raises:
      ValueError: the cell is none of these.
    """
    word = cell.strip().casefold()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError(f"{cell!r} is neither 0 nor 1")


def parse_split(cell: str) -> str | None:
    """Returns the name of the split that a cell means, or None where it means none."""
    return _SPLITS.get(cell.strip().casefold())


def _parse_list(cell: str) -> list[str]:
    if len(cell) > _LONGEST_LIST or not cell.endswith("]"):
        raise ValueError("a list without an end")
    # numpy prints no commas, and Python joins strings that stand side by side.
    cell = re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", cell)
    for parse in (json.loads, ast.literal_eval):
        try:
            items = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        names: list[Any] = [item.get("name") if isinstance(item, dict) else item for item in items]
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise ValueError("a list of something else than names")
        return names
    if re.search(r"['\"{}\[\]]", cell[1:-1]):
        raise ValueError("a list that cannot be read")
    return cell[1:-1].split(",")
