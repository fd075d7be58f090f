"""Finds the columns of a CSV that hold the film's id, genres, image and split."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from trainer.catalog import cells
from trainer.catalog.table import Table
from trainer.errors import UserError

# Names in lower case without punctuation. If a file has several of them, the first one in this order counts.
_ID_NAMES = ("id", "imdbid", "tconst", "movieid", "filmid", "tmdbid", "imdb", "tmdb")
_GENRES_NAMES = ("genres", "genre", "labels", "label", "tags", "categories", "category")
_IMAGE_NAMES = (
    *("poster", "posterpath", "posterurl", "posterlink", "posterfile"),
    *("image", "imagepath", "imageurl", "imagefile", "imagename", "img", "imgpath", "imgurl"),
    *("picture", "picturepath", "pictureurl", "filename", "filepath", "file", "path"),
)
_SAMPLE_ROWS = 1000
_MIN_SHARE = 0.8  # A column is of a kind if at least this share of its cells is, without those that have no value.


@dataclass(frozen=True)
class Columns:
    """The columns that the user named.

    Attributes:
      id: Column of the ids; None to find it.
      genres: Column of the lists of genres; None to find it.
      image: Column that names the images; None to find it.
      labels: Columns of 0 and 1, one per genre, or the genres' names if the file has no header; empty to find them.
      split: Column that assigns the splits; None to let the program assign them.
    """

    id: str | None = None
    genres: str | None = None
    image: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class Layout:
    """Which column of a CSV holds what.

    Attributes:
      id: Column of the ids.
      genres: Column of the lists of genres; None if `labels` is used.
      separator: Character that separates the genres in a cell that is not a list; None if such a cell holds a single genre.
      labels: Genre of each column of 0 and 1; empty if `genres` is used.
      image: Column that names the images; the id column if no other column names them.
      split: Column that assigns the splits; None if no column does.
    """

    id: str
    genres: str | None
    separator: str | None
    labels: Mapping[str, str]
    image: str
    split: str | None


def find(table: Table, requested: Columns) -> Layout:
    """Finds the columns that the user did not name, first by their names and then by their content.

    A column of lists of genres is preferred to columns of 0 and 1. If a file has no column of ids, the images' names serve as
    ids. If it has no column of images, the ids serve as the images' names.

    Args:
      table: The rows of the CSV.
      requested: The columns that the user named.

    Returns:
      The column of each kind.

    Raises:
      UserError: A requested column is missing, both forms of genres were requested, or no column holds the genres or names the
        films.
    """
    samples = _Samples(table)
    if requested.genres and requested.labels:
        raise UserError("--genres_column and --label_columns exclude each other: give one of them")
    genres = _checked(table, "--genres_column", requested.genres)
    split = _checked(table, "--split_column", requested.split)
    if genres is None and not requested.labels:
        binary = {name for name in table.columns if samples.mostly(name, cells.is_bool)}
        genres = (
            samples.find_by_name(_GENRES_NAMES, excluding=binary)
            or samples.find_by_content(cells.holds_known_genres)
            or samples.find_by_content(cells.is_list)
            or samples.find_by_content(lambda cell: "|" in cell)
        )
    film_id = _checked(table, "--id_column", requested.id) or samples.find_by_name(_ID_NAMES, excluding={genres, split})
    image = (
        _checked(table, "--image_column", requested.image)
        or samples.find_by_name(_IMAGE_NAMES, excluding={genres, split, film_id})
        or samples.find_by_content(cells.is_image_path, excluding={genres, split})
    )
    film_id = (
        film_id
        or samples.find_by_content(cells.is_imdb_id, excluding={genres, split, image}, distinct=True)
        or samples.find_by_content(cells.is_film_id, excluding={genres, split, image}, distinct=True)
        or image
    )
    if film_id is None:
        raise UserError(
            f"--csv: no column names the film or its image among {_listing(table)}: name one with --id_column or --image_column"
        )
    labels = {} if genres else _label_columns(table, samples, requested.labels, excluding={film_id, image, split})
    separator = cells.find_separator(table.column(genres)) if genres else None
    return Layout(film_id, genres, separator, labels, image or film_id, split)


class _Samples:
    """The cells with a value in the first rows, by column."""

    def __init__(self, table: Table) -> None:
        rows = [row for _, row in table.rows[:_SAMPLE_ROWS]]
        self._cells: dict[str, list[str]] = {
            name: [row[index] for row in rows if not cells.is_missing(row[index])] for index, name in enumerate(table.columns)
        }

    def mostly(self, name: str, is_of_kind: Callable[[str], bool]) -> bool:
        """Returns whether nearly all cells of a column are of a kind."""
        sample = self._cells[name]
        return bool(sample) and sum(map(is_of_kind, sample)) >= _MIN_SHARE * len(sample)

    def find_by_name(self, known: Sequence[str], *, excluding: Set[str | None] = frozenset()) -> str | None:
        """Returns the column whose name comes first in `known`."""
        found = {re.sub(r"[\W_]", "", name.casefold()): name for name in reversed(self._cells) if name not in excluding}
        return next((found[name] for name in known if name in found), None)

    def find_by_content(
        self, is_of_kind: Callable[[str], bool], *, excluding: Set[str | None] = frozenset(), distinct: bool = False
    ) -> str | None:
        """Returns the first column whose cells are of a kind and, with `distinct`, nearly all different."""
        for name, sample in self._cells.items():
            is_distinct = len(set(sample)) >= _MIN_SHARE * len(sample)
            if name not in excluding and self.mostly(name, is_of_kind) and (is_distinct or not distinct):
                return name
        return None


def _checked(table: Table, flag: str, name: str | None) -> str | None:
    """Returns the column that a flag names, after checking that the table has it."""
    if name is not None and name not in table.columns:
        raise UserError(f"{flag}={name} is not a column of the CSV: choose among {_listing(table)}")
    return name


def _label_columns(table: Table, samples: _Samples, requested: Sequence[str], excluding: Set[str | None]) -> dict[str, str]:
    """Returns the genre of each column of 0 and 1."""
    if table.has_header and requested:
        return {name: name for name in requested if _checked(table, "--label_columns", name)}
    found = [name for name in table.columns if name not in excluding and name.strip() and samples.mostly(name, cells.is_bool)]
    if len(found) < 2:
        raise UserError(
            f"--csv: no column holds genres among {_listing(table)}: name it with --genres_column, or with --label_columns if "
            "each genre has a column of 0 and 1"
        )
    if table.has_header:
        return {name: name for name in found if not cells.is_missing(name)}
    if len(requested) != len(found):
        raise UserError(
            f"--label_columns must name the genres of the {len(found)} columns of 0 and 1 ({', '.join(found)}) in this order, "
            f"as the CSV has no header, got {len(requested)} names"
        )
    return dict(zip(found, requested, strict=True))


def _listing(table: Table) -> str:
    names = ", ".join(map(repr, table.columns))
    return names if table.has_header else f"{names} (the CSV has no header)"
