"""Finds the columns of a CSV that hold the film's id, genres, image, title and split."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from trainer.catalog import cells, image_evidence
from trainer.catalog.genres import lists, separators
from trainer.catalog.genres.separators import Separator
from trainer.catalog.image_evidence import Naming
from trainer.catalog.tables import json_lines
from trainer.catalog.tables.table import Table
from trainer.errors import UserError
from trainer.sources.lookup import ImageFinder

# Names in lower case without accents and punctuation. If a file has several of them, the first one in this order counts.
_ID_NAMES = ("id", "imdbid", "tconst", "movieid", "filmid", "tmdbid", "imdb", "tmdb")
_GENRES_NAMES = (
    *("genres", "genre", "labels", "label", "tags", "categories", "category", "classificationannotations"),
    *("classificationannotation", "listedin", "generos", "genero", "жанры", "жанр", "类型", "類型", "ジャンル", "장르"),
)
_IMAGE_NAMES = (
    *("poster", "posterpath", "posterurl", "posterlink", "posterfile"),
    *("image", "imagepath", "imageurl", "imagefile", "imagename", "img", "imgpath", "imgurl", "imagegcsuri"),
    *(
        "cover",
        "coverurl",
        "coverimage",
        "thumbnail",
        "picture",
        "picturepath",
        "pictureurl",
        "filename",
        "filepath",
        "file",
        "path",
    ),
)
_TITLE_NAMES = (
    *("title", "movietitle", "filmtitle", "primarytitle", "name", "moviename", "filmname", "originaltitle"),
    *("titre", "titel", "titulo", "titolo", "название", "片名", "电影名", "電影名", "タイトル", "제목"),
)
# A column for each place in a list: genre1, genre2, …; or the first genre and the others.
_GENRE_SLOT = re.compile(r"(genre|label|tag|category|genero|жанр|类型)s?(\d*)(?:name|label|value)?")
_GENRE_SLOTS = frozenset(
    f"{order}genre" for order in ("primary", "main", "first", "secondary", "second", "sub", "tertiary", "third", "other")
)
_ID_WORDS = frozenset({"id", "ids", "uid", "key", "code", "isbn", "asin", "slug", "uuid", "guid", "imdb", "tmdb", "tconst"})
# An id of these is not the film's.
_OTHER_THINGS = frozenset(
    {"actor", "author", "cast", "collection", "company", "country", "director", "genre", "language", "person", "studio", "user"}
)
_MEASURES = frozenset(
    {
        *("index", "unnamed", "rank", "ranking", "position", "row", "number", "num", "no", "nr", "order", "top"),
        *("year", "date", "month", "day", "decade", "runtime", "duration", "minutes", "mins", "length", "age"),
        *(
            "vote",
            "votes",
            "count",
            "counts",
            "rating",
            "ratings",
            "score",
            "scores",
            "popularity",
            "members",
            "favorites",
            "likes",
        ),
        *("budget", "revenue", "gross", "income", "price", "episodes", "seasons", "reviews", "metascore", "views", "percent"),
    }
)
_WITHOUT_NAME = re.compile(r"column \d+")
_SAMPLE_ROWS = 1000
_MIN_SHARE = 0.8  # A column is of a kind if at least this share of its cells is, without those that have no value.
_MAX_LISTED = 30  # Of the columns of a CSV, so many are named in an error message, each by so many characters at most:
_MAX_NAME = 40
_MAX_DIFFERENT = 50_000  # So many different cells tell what separates the genres.


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
    samples = _Samples(table)
    if requested.genres and requested.labels:
        raise UserError("--genres_column and --label_columns exclude each other: give one of them")
    for flag, name in (("--genres_column", requested.genres), ("--split_column", requested.split)):
        _check(table, flag, name)
    if requested.genres:
        genres: tuple[str, ...] = (requested.genres,)
    elif requested.labels:
        genres = ()
    elif table.genres_after_blanks:
        genres = table.columns[1:]
    else:
        genres = _genres_columns(samples)
    split, split_may_be_blank = requested.split, False
    if split is None:
        split, split_may_be_blank = _import_split(table), True
    taken = {*genres, split, *requested.labels}
    film_id, image, names_files, url = _film_columns(table, samples, requested, taken, finder)
    labels = {} if genres else _label_columns(table, samples, requested.labels, excluding={film_id, image, url, split})
    title = samples.find_by_name(_TITLE_NAMES, excluding={*genres, *labels, film_id, image, url, split})
    separator = _separator(table, genres, requested.separator)
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


class _Samples:
    """The cells with a value in the first rows, by column."""

    def __init__(self, table: Table) -> None:
        rows = table.rows.iloc[:_SAMPLE_ROWS]
        self.cells: dict[str, list[str]] = {
            name: [cell for cell in rows[name].tolist() if not cells.is_missing(cell)] for name in table.columns
        }

    def mostly(self, name: str, is_of_kind: Callable[[str], bool]) -> bool:
        """Returns whether nearly all cells of a column are of a kind."""
        sample = self.cells[name]
        return bool(sample) and sum(map(is_of_kind, sample)) >= _MIN_SHARE * len(sample)

    def is_distinct(self, name: str) -> bool:
        """Returns whether nearly all cells of a column are different."""
        return len(set(self.cells[name])) >= _MIN_SHARE * len(self.cells[name])

    def is_counter(self, name: str) -> bool:
        """Returns whether each number in a column is one more than the one in the row before."""
        sample = [cells.without_fraction(cell.strip()) for cell in self.cells[name]]
        if len(sample) < 3 or not all(map(str.isdecimal, sample)):
            return False
        steps = [int(after) - int(before) for before, after in itertools.pairwise(sample)]
        return steps.count(1) >= 0.95 * len(steps)

    def find_by_name(self, known: Sequence[str], *, excluding: Collection[str | None] = ()) -> str | None:
        """Returns the column whose name comes first in `known`."""
        found = {plain(name): name for name in reversed(self.cells) if name not in excluding}
        return next((found[name] for name in known if name in found), None)

    def find_by_content(
        self, is_of_kind: Callable[[str], bool], *, excluding: Collection[str | None] = (), distinct: bool = False
    ) -> str | None:
        """Returns the first column whose cells are of a kind and, with `distinct`, nearly all different."""
        return next(
            (
                name
                for name in self.cells
                if name not in excluding and self.mostly(name, is_of_kind) and (self.is_distinct(name) or not distinct)
            ),
            None,
        )


def plain(name: str) -> str:
    """Returns a column's name in lower case, without accents, blanks and punctuation."""
    letters = unicodedata.normalize("NFD", name.casefold())
    return re.sub(r"[\W_]", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))


def _check(table: Table, flag: str, name: str | None) -> None:
    """Checks that the table has the column that a flag names."""
    if name is not None and name not in table.columns:
        raise UserError(f"{flag}={name} is not a column of the CSV: choose among {_listing(table)}")


def _import_split(table: Table) -> str | None:
    """Returns the column of splits in an import file of Vertex AI, None if this is none or no row has a split."""
    for name in ("set", json_lines.ML_USE):
        if table.is_import_file and name in table.columns and table.rows[name].str.strip().any():
            return name
    return None


def _genres_columns(samples: _Samples) -> tuple[str, ...]:
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


def _genre_slots(samples: _Samples, binary: Collection[str]) -> tuple[str, ...]:
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


def _is_called_genres(samples: _Samples, name: str) -> bool:
    """Returns whether a column's name has the word genre, as `movie_genres` has, and its cells are not numbers."""
    words = set(_words(name))
    return bool(words & {"genre", "genres"}) and not words & _MEASURES and not samples.mostly(name, cells.is_number)


def _has_several(cell: str) -> bool:
    return lists.is_list(cell) or any(separator in cell for separator in "|;,\n")


def _film_columns(
    table: Table, samples: _Samples, requested: Columns, taken: Collection[str | None], finder: ImageFinder | None
) -> tuple[str, str, str | None, str | None]:
    """Returns the columns of the ids, of the images' names, of what names files of the folder, and of the URLs of images."""
    _check(table, "--id_column", requested.id)
    _check(table, "--image_column", requested.image)
    others = [name for name in table.columns if name not in taken and not samples.mostly(name, cells.is_bool)]
    known = {name: rank for rank, name in enumerate(_IMAGE_NAMES)}
    others.sort(key=lambda name: known.get(plain(name), len(known)))
    namings = {name: _naming(samples, name) for name in others}
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
            f"--csv: no column names the film or its image among {_listing(table)}: name one with --id_column or --image_column"
        )
    return film_id, image or film_id, names_files, url


def _number(samples: _Samples, namings: Mapping[str, Naming]) -> str | None:
    """Returns a column of different numbers: an index or a rank only if there is no other."""
    numbers = [name for name in namings if samples.mostly(name, cells.is_number) and samples.is_distinct(name)]
    return min(numbers, key=lambda name: namings[name], default=None)


def _naming(samples: _Samples, name: str) -> Naming:
    """Returns what a column looks like."""
    words = set(_words(name))
    if plain(name) in _IMAGE_NAMES or (samples.mostly(name, _is_image) and not samples.mostly(name, cells.is_number)):
        return Naming.IMAGE
    if plain(name) in _ID_NAMES or samples.mostly(name, cells.is_imdb_id):
        return Naming.ID
    if words & _MEASURES or _WITHOUT_NAME.fullmatch(name):
        return Naming.INDEX
    if words & _ID_WORDS and not words & _OTHER_THINGS and not samples.mostly(name, cells.is_url):
        return Naming.ID
    if not samples.mostly(name, _is_measure):
        return Naming.TEXT
    if not samples.mostly(name, cells.is_number):
        return Naming.INDEX
    return Naming.COUNTER if samples.is_counter(name) else Naming.NUMBER


def _words(name: str) -> list[str]:
    """Returns the words of a column's name in lower case: those of `numVotes` are num and votes."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).casefold())


def _is_image(cell: str) -> bool:
    """Returns whether a cell is the path or URI of an image."""
    return cells.is_image_path(cell) or cells.is_cloud_uri(cell)


def _is_measure(cell: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+%?", cell.strip()) is not None


def _label_columns(table: Table, samples: _Samples, requested: Sequence[str], excluding: Set[str | None]) -> dict[str, str]:
    """Returns the genre of each column of 0 and 1."""
    if table.has_header and requested:
        for name in requested:
            _check(table, "--label_columns", name)
        return {name: name for name in requested}
    found = [name for name in table.columns if name not in excluding and samples.mostly(name, cells.is_bool)]
    if table.has_header:
        found = [name for name in found if not cells.is_missing(name) and not _WITHOUT_NAME.fullmatch(name)]
    if len(found) < 2:
        raise UserError(
            f"--csv: no column holds genres among {_listing(table)}: name it with --genres_column, or with --label_columns if "
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


def _separator(table: Table, genres: Sequence[str], requested: str | None) -> Separator | None:
    """Returns what separates the genres in the columns of genres."""
    if requested is not None:
        return None if requested == "none" else Separator(requested)
    different: Counter[str] = Counter()
    for name in genres:
        for cell, count in table.rows[name].value_counts(sort=False).head(_MAX_DIFFERENT).items():
            if not cells.is_missing(cell) and not lists.is_list(cell):
                different[cell] += count
    found = separators.find(different)
    if found is None and table.genres_after_blanks:
        return Separator(" ")
    return found


def _listing(table: Table) -> str:
    names = ", ".join(repr(name[:_MAX_NAME]) for name in table.columns[:_MAX_LISTED])
    more = f" and {len(table.columns) - _MAX_LISTED} more" if len(table.columns) > _MAX_LISTED else ""
    return f"{names}{more}" if table.has_header else f"{names}{more} (the CSV has no header)"
