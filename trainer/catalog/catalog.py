"""The films of a CSV: what each row says."""

from collections.abc import Mapping
from dataclasses import dataclass

from etils import epath

from trainer.catalog import cells, columns, table
from trainer.dataset.rejects import Reason, Reject


@dataclass(frozen=True)
class Film:
    """A row that names a film, its genres and its picture.

    Attributes:
      row: 1 for the first row of data.
      id: what the CSV calls the film; where it has no column of ids, what it calls the picture.
      genres: at least one, each once.
      picture: a name without extension, a relative path or an http(s) address.
      split: one of `manifest.SPLITS` where a column assigns it.
    """

    row: int
    id: str
    genres: tuple[str, ...]
    image: str
    split: str | None = None


@dataclass(frozen=True)
class Catalog:
    """Every row of a CSV, `rows` in all: it is either a film or a reject. `layout` says which column was taken for what."""

    rows: int
    films: tuple[Film, ...]
    rejects: tuple[Reject, ...]
    layout: columns.Layout


def read(csv_path: epath.PathLike, asked: columns.Columns) -> Catalog:
    """Reads the films of a CSV.

    Genres keep their spelling; N/A and its like are none. Of rows with the same id the first counts.

    Args:
      csv_path: a CSV in any of the places and forms that `table.read` knows.
      asked: what the user says of its columns.

    Raises:
      UserError: there is no such file or no row in it, a column that was asked for is not there, or none holds the genres or names
        the films.
      LostService: what holds the CSV does not answer.
    """
    content = table.read(csv_path)
    layout = columns.find(content, asked)
    films: list[Film] = []
    rejects = list(content.rejects)
    row_of_id: dict[str, int] = {}
    for number, fields in content.rows:
        row = dict(zip(content.columns, fields, strict=True))
        film_id = row[layout.id].strip()
        if not film_id:
            rejects.append(Reject(number, "", Reason.NO_ID, f"nothing in column {layout.id!r}"))
        elif film_id in row_of_id:
            rejects.append(Reject(number, film_id, Reason.REPEATED, f"row {row_of_id[film_id]} has the same id"))
        else:
            row_of_id[film_id] = number
            film = _film(number, film_id, row, layout)
            (films if isinstance(film, Film) else rejects).append(film)  # type: ignore[arg-type]
    return Catalog(len(films) + len(rejects), tuple(films), tuple(rejects), layout)


def _film(number: int, film_id: str, row: Mapping[str, str], layout: columns.Layout) -> Film | Reject:
    try:
        if layout.genres is not None:
            genres = cells.parse_genres(row[layout.genres], layout.separator)
        else:
            genres = tuple(genre for column, genre in layout.labels.items() if cells.parse_yes_or_no(row[column]))
    except ValueError as error:
        return Reject(number, film_id, Reason.BAD_GENRES, str(error))
    if not genres:
        return Reject(number, film_id, Reason.NO_GENRE, "it names no genre")
    split = None
    if layout.split is not None:
        split = cells.parse_split(row[layout.split])
        if split is None:
            return Reject(number, film_id, Reason.BAD_SPLIT, f"{row[layout.split]!r} is neither train, validation nor test")
    image = row[layout.image].strip()
    return Film(number, film_id, genres, film_id if cells.is_missing(image) else image, split)
