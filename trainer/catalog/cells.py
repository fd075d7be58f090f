"""What one cell of a CSV holds: a missing value, an id, an image, genres, a boolean or a split."""

import re

from trainer.catalog.genres import known, lists
from trainer.catalog.genres.separators import Separator
from trainer.errors import brief
from trainer.images import formats
from trainer.storage import urls

_MISSING = frozenset(
    {
        *("", "n/a", "na", "nan", "<na>", "none", "null", "empty", "\\n", "-", "--", "–", "—", "?", "(no genres listed)"),
        *("#n/a", "#na", "[]", "{}", "()", "set()", "character(0)"),
    }
)
_TRUE = frozenset({"1", "1.0", "true"})
_FALSE = frozenset({"0", "0.0", "false"})
_UNKNOWN = frozenset({"", "-1", "-1.0"})
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
_IMDB_ID = re.compile(r"tt\d+")
_WHOLE_AS_FLOAT = re.compile(r"(\d+)\.0+")


def is_missing(cell: str) -> bool:
    """Returns whether a cell marks a missing value: blank, N/A, NaN, null, an empty list and similar."""
    return cell.strip().casefold() in _MISSING


def is_url(cell: str) -> bool:
    """Returns whether a cell is an http or https URL."""
    return urls.WEB.match(cell.strip()) is not None


def is_cloud_uri(cell: str) -> bool:
    """Returns whether a cell is a `gs://` URI of an object."""
    return re.match(r"gs://[^/]+/.", cell.strip()) is not None


def is_image_path(cell: str) -> bool:
    """Returns whether a cell is a file name, path or URL with the extension of an image."""
    return formats.NAME_END.search(cell.strip()) is not None


def is_imdb_id(cell: str) -> bool:
    """Returns whether a cell is an IMDb id, such as tt0078748."""
    return _IMDB_ID.fullmatch(cell.strip()) is not None


def is_number(cell: str) -> bool:
    """Returns whether a cell is a whole number, also as the float that pandas makes of it: 862.0."""
    return without_fraction(cell.strip()).isdecimal()


def is_film_id(cell: str) -> bool:
    """Returns whether a cell is an IMDb id or a whole number."""
    return is_imdb_id(cell) or cell.strip().isdecimal()


def is_bool(cell: str) -> bool:
    """Returns whether a cell is a boolean (0, 1, true, false …) or -1, which stands for unknown, and not blank."""
    return cell.strip() != "" and cell.strip().casefold() in _TRUE | _FALSE | _UNKNOWN


def holds_known_genres(cell: str) -> bool:
    """Returns whether a cell holds only well-known genres, in any form that `parse_genres` accepts."""
    try:
        names = lists.parse(cell)
    except ValueError:
        return False
    if names is None:
        names = [name for name in re.split(r"[|;,\n]|\s/\s", cell) if not is_missing(name)]
    return bool(names) and all(map(known.is_known, names))


def parse_genres(cell: str, separator: Separator | None) -> tuple[str, ...]:
    """Parses the genres of a film.

    Args:
      cell: A list that `lists.parse` reads, or names with a separator between them.
      separator: What separates the names in a cell that is not a list; None if such a cell holds a single name.

    Returns:
      The names in the order of the cell, stripped, without repetitions and without markers of a missing value.

    Raises:
      ValueError: The cell is a list that cannot be parsed, or a name has a bracket of a list.
    """
    names = lists.parse(cell)
    if names is None:
        names = separator.split(cell) if separator else [cell]
    names = [_without_marks(name) for name in names]
    for name in names:
        if lists.BRACKET.search(name):
            raise ValueError(f"{brief(name)!r} is a part of a list, and not a genre")
    return tuple(dict.fromkeys(name for name in names if not is_missing(name)))


def parse_bool(cell: str) -> bool | None:
    """Parses a boolean: 1, 1.0 and true are true; 0, 0.0 and false are false; -1 and a blank cell are unknown, None.

    Raises:
      ValueError: The cell has another value.
    """
    word = cell.strip().casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    if word in _UNKNOWN:
        return None
    raise ValueError(f"{brief(cell)!r} is neither 0 nor 1")


def parse_split(cell: str) -> str | None:
    """Returns the split that a cell names (`val` and `dev` mean validation, for example), or None if it names none."""
    return _SPLITS.get(cell.strip().casefold())


def without_fraction(cell: str) -> str:
    """Returns a whole number without the `.0` that pandas adds to it in a column with missing values; other cells as they are."""
    match = _WHOLE_AS_FLOAT.fullmatch(cell)
    return match[1] if match else cell


def _without_marks(name: str) -> str:
    """Returns a name without surrounding blanks and the quotation marks that a program left around it."""
    name = " ".join(name.split()) if "\n" in name else name.strip()
    while len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1].strip()
    return name.strip('"').strip()
