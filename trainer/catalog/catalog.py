"""The films of a CSV: what each row says about its film."""

from collections.abc import Mapping
from dataclasses import dataclass

from etils import epath

from trainer.catalog import cells, columns, table
from trainer.dataset.rejects import Reason, Reject


@dataclass(frozen=True)
class Film:
    """A row that names a film, its genres and its image.

    Attributes:
      row: Number of the row; the first row of data is 1.
      id: The film's id in the CSV, or the name of its image if the CSV has no column of ids.
      genres: Names of the film's genres: at least one, without repetitions.
      image: Name of the image without its extension, relative path, or http(s) URL.
      split: One of `manifest.SPLITS` if a column assigns the splits, else None.
    """

    row: int
    id: str
    genres: tuple[str, ...]
    image: str
    split: str | None = None


@dataclass(frozen=True)
class Catalog:
    """All rows of a CSV: each row is either a film or a reject.

    Attributes:
      rows: Number of rows of data.
      films: The rows that name a film, in the CSV's order.
      rejects: The other rows.
      layout: Which column was used for what.
      encoding: The file's encoding, as `Table.encoding` describes it.
      delimiter: The file's delimiter, as `Table.delimiter` describes it.
      has_header: Whether the file has a header.
    """

    rows: int
    films: tuple[Film, ...]
    rejects: tuple[Reject, ...]
    layout: columns.Layout
    encoding: str
    delimiter: str | None
    has_header: bool


def read(csv_path: epath.PathLike, requested: columns.Columns) -> Catalog:
    """Reads the films of a CSV.

    Genres keep their spelling. N/A and other markers of a missing value are not genres. If several rows have the same id, the
    first one counts.

    Args:
      csv_path: Path or URI of the CSV; see `table.read` for the file systems and formats that it can have.
      requested: The columns that the user named.

    Returns:
      All rows of the CSV, as films and rejects.

    Raises:
      UserError: The file does not exist or has no rows, a requested column is missing, or no column holds the genres or names the
        films.
      LostService: The storage of the CSV does not answer.
    """
    content = table.read(csv_path)
    layout = columns.find(content, requested)
    films: list[Film] = []
    rejects = list(content.rejects)
    row_of_id: dict[str, int] = {}
    for row_number, fields in content.rows:
        row = dict(zip(content.columns, fields, strict=True))
        film_id = row[layout.id].strip()
        if not film_id:
            rejects.append(Reject(row_number, "", Reason.NO_ID, f"column {layout.id!r} is empty"))
        elif film_id in row_of_id:
            rejects.append(Reject(row_number, film_id, Reason.REPEATED, f"row {row_of_id[film_id]} has the same id"))
        else:
            row_of_id[film_id] = row_number
            film = _parse_row(row_number, film_id, row, layout)
            if isinstance(film, Film):
                films.append(film)
            else:
                rejects.append(film)
    return Catalog(
        rows=len(films) + len(rejects),
        films=tuple(films),
        rejects=tuple(rejects),
        layout=layout,
        encoding=content.encoding,
        delimiter=content.delimiter,
        has_header=content.has_header,
    )


def _parse_row(row_number: int, film_id: str, row: Mapping[str, str], layout: columns.Layout) -> Film | Reject:
    try:
        if layout.genres is not None:
            genres = cells.parse_genres(row[layout.genres], layout.separator)
        else:
            genres = tuple(genre for column, genre in layout.labels.items() if cells.parse_bool(row[column]))
    except ValueError as error:
        return Reject(row_number, film_id, Reason.BAD_GENRES, str(error))
    if not genres:
        return Reject(row_number, film_id, Reason.NO_GENRE, "the row names no genre")
    split = None
    if layout.split is not None:
        split = cells.parse_split(row[layout.split])
        if split is None:
            return Reject(row_number, film_id, Reason.BAD_SPLIT, f"{row[layout.split]!r} is neither train, validation nor test")
    image = row[layout.image].strip()
    return Film(row_number, film_id, genres, film_id if cells.is_missing(image) else image, split)
