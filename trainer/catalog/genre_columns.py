"""Finds the columns of a CSV that hold the genres, and what separates the genres in a cell."""

import re
from collections import Counter
from collections.abc import Collection, Sequence, Set

from trainer.catalog import cells
from trainer.catalog.genres import lists, separators
from trainer.catalog.genres.separators import Separator
from trainer.catalog.samples import MEASURES, Samples, plain, words
from trainer.catalog.tables.table import Table
from trainer.errors import UserError

# Names in lower case without accents and punctuation. If a file has several of them, the first one in this order counts.
_GENRES_NAMES = (
    *("genres", "genre", "labels", "label", "tags", "categories", "category", "classificationannotations"),
    *("classificationannotation", "listedin", "generos", "genero", "жанры", "жанр", "类型", "類型", "ジャンル", "장르"),
)
# A column for each place in a list: genre1, genre2, …; or the first genre and the others.
_GENRE_SLOT = re.compile(r"(genre|label|tag|category|genero|жанр|类型)s?(\d*)(?:name|label|value)?")
_GENRE_SLOTS = frozenset(
    f"{order}genre" for order in ("primary", "main", "first", "secondary", "second", "sub", "tertiary", "third", "other")
)
_MAX_DIFFERENT = 50_000  # So many different cells tell what separates the genres.


def find(samples: Samples) -> tuple[str, ...]:
    """Returns the columns of genres: one of lists, or several whose genres are united."""
    binary = {name for name in samples.cells if samples.mostly(name, cells.is_bool)}
    named = samples.find_by_name(_GENRES_NAMES, excluding=binary)
    slots = _genre_slots(samples, binary)
    if slots and (named is None or named in slots or not any(map(_has_several, samples.cells[named]))):
        return slots
    if named:
        return (named,)
    called = tuple(name for name in samples.cells if name not in binary and _is_called_genres(samples, name))
    if called:
        return called[:1] if any(map(_has_several, samples.cells[called[0]])) else called
    if found_by_content := tuple(name for name in samples.cells if samples.mostly(name, cells.holds_known_genres)):
        return found_by_content
    found = samples.find_by_content(lists.is_list) or samples.find_by_content(lambda cell: "|" in cell)
    return (found,) if found else ()


def _genre_slots(samples: Samples, binary: Collection[str]) -> tuple[str, ...]:
    """Returns the columns that hold a genre each, such as genre1, genre2 and genre3; empty if there are none."""
    text = [name for name in samples.cells if name not in binary and not samples.mostly(name, cells.is_number)]
    by_base: dict[str, list[str]] = {}
    for name in text:
        if match := _GENRE_SLOT.fullmatch(plain(name)):
            by_base.setdefault(match[1], []).append(name)
    numbered = next((names for names in by_base.values() if len(names) > 1 and any(re.search(r"\d", plain(n)) for n in names)), [])
    ordered = [name for name in text if plain(name) in _GENRE_SLOTS or plain(name) == "genre"]
    slots = numbered or ordered
    return tuple(slots) if len(slots) > 1 else ()


def _is_called_genres(samples: Samples, name: str) -> bool:
    """Returns whether a column's name has the word genre, as `movie_genres` has, and its cells are not numbers."""
    named = set(words(name))
    return bool(named & {"genre", "genres"}) and not named & MEASURES and not samples.mostly(name, cells.is_number)


def _has_several(cell: str) -> bool:
    return lists.is_list(cell) or any(separator in cell for separator in "|;,\n")


def labels(table: Table, samples: Samples, requested: Sequence[str], excluding: Set[str | None]) -> dict[str, str]:
    """Returns the genre of each column of 0 and 1."""
    if table.has_header and requested:
        for name in requested:
            samples.check("--label_columns", name)
        return {name: name for name in requested}
    found = [name for name in table.columns if name not in excluding and samples.mostly(name, cells.is_bool)]
    if table.has_header:
        found = [name for name in found if not cells.is_missing(name) and not table.is_without_name(name)]
    if len(found) < 2:
        raise UserError(
            f"--csv: no column holds genres among {samples.listing()}: name it with --genres_column, or with --label_columns if "
            "each genre has a column of 0 and 1"
        )
    if table.has_header:
        return {name: name for name in found}
    if len(requested) != len(found):
        raise UserError(
            f"--label_columns must name the genres of the {len(found)} columns of 0 and 1 ({', '.join(found)}) in this order, "
            f"as the CSV has no header, got {len(requested)} names"
        )
    return dict(zip(found, requested, strict=True))


def separator(table: Table, genres: Sequence[str], requested: str | None) -> Separator | None:
    """Returns what separates the genres in the columns of genres.

    Args:
      table: The rows of the CSV.
      genres: The columns of genres.
      requested: The value of --genre_separator, in which \\n and \\t stand for a line end and a tab; None to find the separator.

    Raises:
      UserError: The value is empty.
    """
    if requested == "":
        raise UserError("--genre_separator is empty: give the text between two genres, or none if a cell holds one genre")
    if requested is not None:
        return None if requested == "none" else Separator(requested.replace("\\n", "\n").replace("\\t", "\t"))
    different: Counter[str] = Counter()
    for name in genres:
        for cell, count in table.rows[name].value_counts(sort=False).head(_MAX_DIFFERENT).items():
            if not cells.is_missing(cell) and not lists.is_list(cell):
                different[cell] += count
    found = separators.find(different)
    if found is None and table.genres_after_blanks:
        return Separator(" ")
    return found
