"""The films of a CSV: what its rows say about each film."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import pandas as pd
from etils import epath

from trainer.catalog import cells, columns
from trainer.catalog.columns import Layout
from trainer.catalog.genres import spellings
from trainer.catalog.tables import table
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import brief
from trainer.sources.lookup import ImageFinder

# Below so many films it is no sign of a mistake that most genres have one film.
_MANY_FILMS = 10
_SHOWN = 5
_SAMPLE_ROWS = 1000

# The genres of a row, or why they cannot be read.
_Genres = tuple[str, ...] | str


@dataclass(frozen=True, slots=True)
class Film:
    """A film, its genres and its image.

    Attributes:
      row: Number of the film's first row; the first row of data is 1.
      id: The film's id in the CSV, or the name of its image if the CSV has no column of ids.
      genres: Names of the film's genres: at least one, without repetitions.
      image: What names its image: a file's name with or without its extension, a path, a URI or a URL. Empty if its cell is
        missing; then the id may name it.
      url: The http(s) URL or `gs://` URI of the image, for an image that is not in the folder; None if there is none.
      title: The film's title; None if the CSV does not have it.
      split: One of `manifest.SPLITS` if a column assigns the splits, else None.
    """

    row: int
    id: str
    genres: tuple[str, ...]
    image: str
    url: str | None = None
    title: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Catalog:
    """All rows of a CSV: each row is a film, a part of one, or a reject.

    Attributes:
      rows: Number of rows of data.
      films: The films, in the order of their first rows.
      rejects: The rows that are no part of a film.
      layout: Which column was used for what.
      read_as: How the file was read, as `Table.read_as` says it.
      distinct_ids: Number of different ids.
      notes: What was decided about the content, one line each.
      warnings: What the user should check, one line each.
    """

    rows: int
    films: Sequence[Film]
    rejects: Sequence[Reject]
    layout: Layout
    read_as: str = ""
    distinct_ids: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read(csv_path: epath.PathLike, requested: columns.Columns, finder: ImageFinder | None = None) -> Catalog:
    """Reads the films of a CSV.

    N/A and other markers of a missing value are not genres. Genres that differ in case alone are one genre, in the commonest
    spelling. If several rows have the same id, image and title, the film has the genres of all of them; a row that adds nothing
    is a reject.

    Args:
      csv_path: Path or URI of the CSV; see `table.read` for the file systems and formats that it can have.
      requested: The columns that the user named.
      finder: The images of --images, whose names tell the columns; None if there is no folder.

    Returns:
      All rows of the CSV, as films and rejects.

    Raises:
      UserError: The file does not exist or has no rows, a requested column is missing, or no column holds the genres or names the
        films.
      LostService: The storage of the CSV does not answer.
    """
    content = table.read(csv_path)
    layout = columns.find(content, requested, finder)
    genres, notes = _genres(content.rows, layout)
    ids = _ids(content.rows, layout.id)
    films, rejects = _films(content.rows, layout, ids, genres)
    return Catalog(
        rows=len(content.rows) + len(content.rejects),
        films=films,
        rejects=[*content.rejects, *rejects],
        layout=layout,
        read_as=content.read_as,
        distinct_ids=ids[ids != ""].nunique(),
        notes=tuple(notes),
        warnings=(*content.warnings, *_warnings(films)),
    )


def _genres(rows: pd.DataFrame, layout: Layout) -> tuple[list[_Genres], list[str]]:
    """Returns the genres of each row, and what was decided about them."""
    names = list(layout.genres or layout.labels)
    # Many rows have the same cells: each combination is parsed once.
    combinations = list(zip(*(rows[name].tolist() for name in names), strict=True))
    different = Counter(combinations)
    notes = []
    if layout.genres:
        parsed = {combination: _listed(combination, layout) for combination in different}
    else:
        labels = list(layout.labels.values())
        parsed = {combination: _labelled(combination, labels) for combination in different}
        unknown = sum(count * sum(map(_is_unknown, combination)) for combination, count in different.items())
        if unknown:
            notes.append(f"{unknown:,} cells of -1 or blank among the columns of 0 and 1 say unknown: they count as 0")
    counts: Counter[str] = Counter()
    for combination, found in parsed.items():
        if not isinstance(found, str):
            counts.update(dict.fromkeys(found, different[combination]))
    spelling = spellings.canonical(counts)
    others = sorted(name for name in counts if spelling[name] != name)
    if others:
        shown = ", ".join(f"{brief(name)!r} is {brief(spelling[name])!r}" for name in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
        notes.append(f"genres that differ in case alone are one: {shown}{more}")
        for combination, found in parsed.items():
            if not isinstance(found, str):
                parsed[combination] = tuple(dict.fromkeys(spelling[name] for name in found))
    return [parsed[combination] for combination in combinations], notes


def _listed(combination: Sequence[str], layout: Layout) -> _Genres:
    try:
        return tuple(dict.fromkeys(name for cell in combination for name in cells.parse_genres(cell, layout.separator)))
    except ValueError as error:
        return str(error)


def _labelled(combination: Sequence[str], labels: Sequence[str]) -> _Genres:
    try:
        return tuple(label for label, cell in zip(labels, combination, strict=True) if cells.parse_bool(cell))
    except ValueError as error:
        return str(error)


def _is_unknown(cell: str) -> bool:
    try:
        return cells.parse_bool(cell) is None
    except ValueError:
        return False


def _ids(rows: pd.DataFrame, name: str) -> pd.Series:
    """Returns the ids, without the fraction that pandas adds to whole numbers and without markers of a missing value."""
    ids = rows[name].str.strip()
    if ids.head(_SAMPLE_ROWS).str.fullmatch(r"(?:tt)?\d+(?:\.0+)?").mean() < 0.5:
        return ids  # A title may be None or NaN.
    if ids.str.contains(".0", regex=False).any():
        ids = ids.map(cells.without_fraction)
    return ids.mask(ids.map(cells.is_missing).astype(bool), "")


def _cells(rows: pd.DataFrame, name: str | None) -> Iterable[str]:
    """Returns the cells of a column, stripped and empty where they are missing."""
    if name is None:
        return repeat("", len(rows))
    return ("" if cells.is_missing(cell) else cell.strip() for cell in rows[name].tolist())


def _films(rows: pd.DataFrame, layout: Layout, ids: pd.Series, genres: Sequence[_Genres]) -> tuple[list[Film], list[Reject]]:
    """Returns the films, and the rows that are no part of a film."""
    repeated = set(ids[ids.duplicated()])
    # Of the ids that occur again: the first row, and where the film is in `films`.
    first_row: dict[str, int] = {}
    index_of: dict[str, int] = {}
    films: list[Film] = []
    rejects: list[Reject] = []
    described = zip(
        rows.index.tolist(),
        ids.tolist(),
        genres,
        _cells(rows, layout.image if layout.image != layout.id else None),
        _cells(rows, layout.url if layout.url != layout.image else None),
        _cells(rows, layout.title),
        rows[layout.split].tolist() if layout.split else repeat("", len(rows)),
        strict=True,
    )
    for row, film_id, *cells_of_row in described:
        film = _film(row, film_id, *cells_of_row, layout=layout)
        if film_id in repeated:
            first = first_row.setdefault(film_id, row)
            if isinstance(film, Reject):
                if film.reason is Reason.NO_GENRE and first < row:
                    film = Reject(row, film_id, Reason.REPEATED, f"row {first} has the same id")
            elif film_id not in index_of:
                index_of[film_id] = len(films)
            else:
                film = _united(films[index_of[film_id]], film)
                if isinstance(film, Film):
                    films[index_of[film_id]] = film
                    continue
        if isinstance(film, Film):
            films.append(film)
        else:
            rejects.append(film)
    return films, rejects


def _film(
    row: int, film_id: str, genres: _Genres, image: str, url: str, title: str, split: str, *, layout: Layout
) -> Film | Reject:
    if not film_id:
        return Reject(row, "", Reason.NO_ID, f"column {layout.id!r} is empty")
    if isinstance(genres, str):
        return Reject(row, film_id, Reason.BAD_GENRES, genres)
    if not genres:
        return Reject(row, film_id, Reason.NO_GENRE, "the row names no genre")
    parsed_split = cells.parse_split(split) if layout.split is not None else None
    if layout.split is not None and parsed_split is None and not (layout.split_may_be_blank and cells.is_missing(split)):
        return Reject(row, film_id, Reason.BAD_SPLIT, f"{brief(split)!r} is neither train, validation nor test")
    if layout.image == layout.id:
        image = film_id
    if "://" in image and (cells.is_url(image) or cells.is_cloud_uri(image)):
        url = image
    elif url and not cells.is_url(url):
        url = ""
    return Film(row, film_id, genres, image, url or None, title or None, parsed_split)


def _united(first: Film, film: Film) -> Film | Reject:
    """Returns a film with the genres of a later row too; a reject if the row adds none or is about something else."""
    other = next((what for what in ("image", "title", "split") if getattr(first, what) != getattr(film, what)), None)
    genres = tuple(dict.fromkeys((*first.genres, *film.genres)))
    if other or len(genres) == len(first.genres):
        but = f", but another {other}" if other else ""
        return Reject(film.row, film.id, Reason.REPEATED, f"row {first.row} has the same id{but}")
    return replace(first, genres=genres)


def _warnings(films: Sequence[Film]) -> list[str]:
    counts = Counter(genre for film in films for genre in film.genres)
    single = sum(count == 1 for count in counts.values())
    if len(films) < _MANY_FILMS or single <= len(counts) / 2:
        return []
    return [
        f"{single:,} of {len(counts):,} genres have one film: check --genres_column and --genre_separator, or leave out rare "
        "genres with --min_examples"
    ]
