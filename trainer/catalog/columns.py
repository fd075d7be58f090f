"""Which column of a CSV holds the film's id, its genres, its picture and its split."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from trainer.catalog import cells
from trainer.catalog.table import Table
from trainer.errors import UserError

# Names without case and punctuation; of those that a file has, the first one counts.
_ID_NAMES = ("id", "imdbid", "tconst", "movieid", "filmid", "tmdbid", "imdb", "tmdb")
_GENRES_NAMES = ("genres", "genre", "labels", "label", "tags", "categories", "category")
_IMAGE_NAMES = (
    *("poster", "posterpath", "posterurl", "posterlink", "posterfile"),
    *("image", "imagepath", "imageurl", "imagefile", "imagename", "img", "imgpath", "imgurl"),
    *("picture", "picturepath", "pictureurl", "filename", "filepath", "file", "path"),
)
_SAMPLE_ROWS = 1000
_MOST = 0.8  # A column is of a kind when so many of its cells are, those without a value aside.


@dataclass(frozen=True)
class Columns:
    """What the user says of the columns; None or empty where the file is to be asked."""

    id: str | None = None
    genres: str | None = None
    image: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where a CSV holds what.

    Attributes:
      id: the column of the ids.
      genres: the column of lists of genres, or None where `labels` are used.
      separator: what stands between genres that are not in a list; None if nothing does.
      labels: the genre of each column of 0 and 1; empty where `genres` is used.
      picture: the column that names the pictures; the ids' where no other does.
      split: the column that assigns the splits, or None.
    """

    id: str
    genres: str | None
    separator: str | None
    labels: Mapping[str, str]
    image: str
    split: str | None

    def __str__(self) -> str:
        genres = f"genres in {self.genres!r}" if self.genres else f"{len(self.labels)} genres in columns of 0 and 1"
        return f"ids in {self.id!r}, {genres}, images by {self.image!r}"


def find(table: Table, asked: Columns) -> Layout:
    """Finds the columns that `asked` leaves open, by their names or else by what is in them.

    A column of lists of genres is preferred to columns of 0 and 1 beside it. A file without a column of ids has its pictures' names
    for ids, and one without a column of pictures has them by their ids.

    Raises:
      UserError: a column that was asked for is not there, both forms of genres were asked for, or no column holds the genres or
        says which film a row is about.
    """
    samples = _Samples(table)
    if asked.genres and asked.labels:
        raise UserError("--genres_column and --label_columns are two forms of the same: give one of them")
    genres = _asked(table, "--genres_column", asked.genres)
    split = _asked(table, "--split_column", asked.split)
    if genres is None and not asked.labels:
        genres = (
            samples.named(_GENRES_NAMES, but={name for name in table.columns if samples.most(name, cells.is_zero_or_one)})
            or samples.first(cells.names_genres)
            or samples.first(cells.is_list)
            or samples.first(lambda cell: "|" in cell)
        )
    film_id = _asked(table, "--id_column", asked.id) or samples.named(_ID_NAMES, but={genres, split})
    image = (
        _asked(table, "--image_column", asked.image)
        or samples.named(_IMAGE_NAMES, but={genres, split, film_id})
        or samples.first(cells.names_image, but={genres, split})
    )
    film_id = (
        film_id
        or samples.first(cells.is_imdb_id, but={genres, split, image}, distinct=True)
        or samples.first(cells.is_film_id, but={genres, split, image}, distinct=True)
        or image
    )
    if film_id is None:
        raise UserError(
            f"--csv: no column names the film or its picture among {_listing(table)}: say which with --id_column or --image_column"
        )
    labels = {} if genres else _label_columns(table, samples, asked.labels, but={film_id, image, split})
    separator = cells.separator_of(table.column(genres)) if genres else None
    return Layout(film_id, genres, separator, labels, image or film_id, split)


class _Samples:
    """The first cells of each column that have a value."""

    def __init__(self, table: Table) -> None:
        rows = [row for _, row in table.rows[:_SAMPLE_ROWS]]
        self._cells: dict[str, list[str]] = {
            name: [row[place] for row in rows if not cells.is_missing(row[place])] for place, name in enumerate(table.columns)
        }

    def most(self, name: str, is_of_kind: Callable[[str], bool]) -> bool:
        sample = self._cells[name]
        return bool(sample) and sum(map(is_of_kind, sample)) >= _MOST * len(sample)

    def named(self, known: Sequence[str], *, but: Set[str | None] = frozenset()) -> str | None:
        """Returns the column whose name comes first in `known`."""
        found = {re.sub(r"[\W_]", "", name.casefold()): name for name in reversed(self._cells) if name not in but}
        return next((found[name] for name in known if name in found), None)

    def first(self, is_of_kind: Callable[[str], bool], *, but: Set[str | None] = frozenset(), distinct: bool = False) -> str | None:
        """Returns the first column whose cells are of a kind and, if asked, hardly ever the same."""
        for name, sample in self._cells.items():
            if name not in but and self.most(name, is_of_kind) and not (distinct and len(set(sample)) < _MOST * len(sample)):
                return name
        return None


def _asked(table: Table, flag: str, name: str | None) -> str | None:
    if name is not None and name not in table.columns:
        raise UserError(f"{flag}={name}: there is no such column among {_listing(table)}")
    return name


def _label_columns(table: Table, samples: _Samples, asked: Sequence[str], but: Set[str | None]) -> dict[str, str]:
    """Returns the genre of each column of 0 and 1."""
    if table.has_header and asked:
        return {name: name for name in asked if _asked(table, "--label_columns", name)}
    found = [name for name in table.columns if name not in but and name.strip() and samples.most(name, cells.is_zero_or_one)]
    if len(found) < 2:
        raise UserError(
            f"--csv: no column holds genres among {_listing(table)}: say which with --genres_column, or with --label_columns if "
            "there is a column of 0 and 1 for each genre"
        )
    if table.has_header:
        return {name: name for name in found if not cells.is_missing(name)}
    if len(asked) != len(found):
        raise UserError(
            f"--label_columns: the file has no header and {len(found)} columns of 0 and 1 ({', '.join(found)}): give the names of "
            f"their {len(found)} genres in this order, not {len(asked)}"
        )
    return dict(zip(found, asked, strict=True))


def _listing(table: Table) -> str:
    names = ", ".join(map(repr, table.columns))
    return names if table.has_header else f"{names} (the file has no header)"
