"""Finds the columns of a CSV that hold the film's id, genres, image, title and split."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trainer.catalog import cells, genre_columns, image_evidence
from trainer.catalog.genres.separators import Separator
from trainer.catalog.image_evidence import Naming
from trainer.catalog.samples import MEASURES, Samples, plain, words
from trainer.catalog.tables import json_lines
from trainer.catalog.tables.table import Table
from trainer.errors import UserError
from trainer.sources.lookup import ImageFinder

# Names in lower case without accents and punctuation. If a file has several of them, the first one in this order counts.
_ID_NAMES = ("id", "imdbid", "tconst", "movieid", "filmid", "tmdbid", "imdb", "tmdb")
_IMAGE_NAMES = (
    *("poster", "posterpath", "posterurl", "posterlink", "posterfile"),
    *("image", "imagepath", "imageurl", "imagefile", "imagename", "img", "imgpath", "imgurl", "imagegcsuri"),
    *("cover", "coverurl", "coverimage", "thumbnail", "picture", "picturepath", "pictureurl"),
    *("filename", "filepath", "file", "path"),
)
_TITLE_NAMES = (
    *("title", "movietitle", "filmtitle", "primarytitle", "name", "moviename", "filmname", "originaltitle"),
    *("titre", "titel", "titulo", "titolo", "название", "片名", "电影名", "電影名", "タイトル", "제목"),
)
_ID_WORDS = frozenset({"id", "ids", "uid", "key", "code", "isbn", "asin", "slug", "uuid", "guid", "imdb", "tmdb", "tconst"})
# An id of these is not the film's.
_OTHER_THINGS = frozenset(
    {"actor", "author", "cast", "collection", "company", "country", "director", "genre", "language", "person", "studio", "user"}
)


@dataclass(frozen=True)
class Columns:
    """The columns that the user named.

    Attributes:
      id: Column of the ids; None to find it.
      genres: Column of the lists of genres; None to find it.
      image: Column that names the images; None to find it.
      labels: Columns of 0 and 1, one per genre, or the genres' names if the file has no header; empty to find them.
      split: Column that assigns the splits; None to let the program assign them.
      separator: Text between two genres, "none" if there is none; None to find it.
    """

    id: str | None = None
    genres: str | None = None
    image: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Layout:
    """Which column of a CSV holds what.

    Attributes:
      id: Column of the ids.
      genres: Columns of genres or lists of genres, which are united; empty if `labels` is used.
      separator: What separates the genres in a cell that is not a list; None if such a cell holds a single genre.
      labels: Genre of each column of 0 and 1; empty if `genres` is used.
      image: Column that names the images; the id column if no other column names them.
      names_files: Column whose values name files of --images; None if there is none, or no folder.
      url: Column of the URLs from which images are fetched that the folder does not have; None if there is none.
      title: Column of the titles; None if there is none.
      split: Column that assigns the splits; None if no column does.
      split_may_be_blank: Whether a film without a split is assigned one.
    """

    id: str
    genres: tuple[str, ...]
    separator: Separator | None
    labels: Mapping[str, str]
    image: str
    names_files: str | None = None
    url: str | None = None
    title: str | None = None
    split: str | None = None
    split_may_be_blank: bool = False


def find(table: Table, requested: Columns, finder: ImageFinder | None = None) -> Layout:
    """Finds the columns that the user did not name.

    Where there is a folder of images, the column whose values name its files tells the images, whatever its name is. Otherwise
    columns are found first by their names and then by their content. An index, a rank, a year or a count is taken for the film's
    id only if nothing else can be. If a file has no column of ids, the images' names serve as ids.

    Args:
      table: The rows of the CSV.
      requested: The columns that the user named.
      finder: The images of --images; None if there is no folder.

    Returns:
      The column of each kind.

    Raises:
      UserError: A requested column is missing, both forms of genres were requested, or no column holds the genres or names the
        films.
    """
    samples = Samples(table)
    if requested.genres and requested.labels:
        raise UserError("--genres_column and --label_columns exclude each other: give one of them")
    for flag, name in (("--genres_column", requested.genres), ("--split_column", requested.split)):
        samples.check(flag, name)
    if requested.genres:
        genres: tuple[str, ...] = (requested.genres,)
    elif requested.labels:
        genres = ()
    elif table.genres_after_blanks:
        genres = table.columns[1:]
    else:
        genres = genre_columns.find(samples)
    split, split_may_be_blank = requested.split, False
    if split is None:
        split, split_may_be_blank = _import_split(table), True
    taken = {*genres, split, *requested.labels}
    film_id, image, names_files, url = _film_columns(table, samples, requested, taken, finder)
    labels = {} if genres else genre_columns.labels(table, samples, requested.labels, excluding={film_id, image, url, split})
    title = samples.find_by_name(_TITLE_NAMES, excluding={*genres, *labels, film_id, image, url, split})
    separator = genre_columns.separator(table, genres, requested.separator)
    return Layout(
        id=film_id,
        genres=genres,
        separator=separator,
        labels=labels,
        image=image,
        names_files=names_files,
        url=url,
        title=title,
        split=split,
        split_may_be_blank=split is not None and split_may_be_blank,
    )


def _import_split(table: Table) -> str | None:
    """Returns the column of splits in an import file of Vertex AI, None if this is none or no row has a split."""
    for name in ("set", json_lines.ML_USE):
        if table.is_import_file and name in table.columns and table.rows[name].str.strip().any():
            return name
    return None


def _film_columns(
    table: Table, samples: Samples, requested: Columns, taken: Collection[str | None], finder: ImageFinder | None
) -> tuple[str, str, str | None, str | None]:
    """Returns the columns of the ids, of the images' names, of what names files of the folder, and of the URLs of images."""
    samples.check("--id_column", requested.id)
    samples.check("--image_column", requested.image)
    others = [name for name in table.columns if name not in taken and not samples.mostly(name, cells.is_bool)]
    known = {name: rank for rank, name in enumerate(_IMAGE_NAMES)}
    others.sort(key=lambda name: known.get(plain(name), len(known)))
    namings = {name: _naming(table, samples, name) for name in others}
    named_id = requested.id or samples.find_by_name(_ID_NAMES, excluding=taken)
    called_image = (
        requested.image
        or samples.find_by_name(_IMAGE_NAMES, excluding={*taken, named_id})
        or samples.find_by_content(_is_image, excluding=taken)
    )
    url = called_image if called_image and samples.mostly(called_image, cells.is_url) else None
    names_files = image_evidence.best(table.rows, finder, namings) if finder else None
    image = requested.image or names_files or called_image
    film_id = (
        requested.id
        or (names_files if names_files and names_files == image and namings[names_files] is Naming.ID else None)
        or named_id
        or samples.find_by_content(cells.is_imdb_id, excluding={*taken, image, url}, distinct=True)
        or next((name for name in others if namings[name] is Naming.ID and samples.is_distinct(name)), None)
        or image
        or _number(samples, namings)
    )
    if film_id is None:
        raise UserError(
            f"--csv: no column names the film or its image among {samples.listing()}: name one with --id_column or --image_column"
        )
    return film_id, image or film_id, names_files, url


def _number(samples: Samples, namings: Mapping[str, Naming]) -> str | None:
    """Returns a column of different numbers: an index or a rank only if there is no other."""
    numbers = [name for name in namings if samples.mostly(name, cells.is_number) and samples.is_distinct(name)]
    return min(numbers, key=lambda name: namings[name], default=None)


def _naming(table: Table, samples: Samples, name: str) -> Naming:
    """Returns what a column looks like."""
    named = set(words(name))
    if plain(name) in _IMAGE_NAMES or (samples.mostly(name, _is_image) and not samples.mostly(name, cells.is_number)):
        return Naming.IMAGE
    if plain(name) in _ID_NAMES or samples.mostly(name, cells.is_imdb_id):
        return Naming.ID
    if named & MEASURES or table.is_without_name(name):
        return Naming.INDEX
    if named & _ID_WORDS and not named & _OTHER_THINGS and not samples.mostly(name, cells.is_url):
        return Naming.ID
    if not samples.mostly(name, _is_measure):
        return Naming.TEXT
    if not samples.mostly(name, cells.is_number):
        return Naming.INDEX
    return Naming.COUNTER if samples.is_counter(name) else Naming.NUMBER


def _is_image(cell: str) -> bool:
    """Returns whether a cell is the path or URI of an image."""
    return cells.is_image_path(cell) or cells.is_cloud_uri(cell)


def _is_measure(cell: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+%?", cell.strip()) is not None
