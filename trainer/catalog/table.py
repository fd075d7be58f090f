"""From the bytes of a CSV of any making to rows of cells: its encoding, its delimiter and whether it has a header."""

import codecs
import csv
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath

from trainer.catalog import cells
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError
from trainer.sources import folders
from trainer.storage import urls

# Where several would do, the first: commas also stand in addresses and genres, and bars and blanks nearly always do.
_DELIMITERS = ("\t", ";", ",", " ", "|")
_SAMPLE_CHARACTERS = 1 << 16
_SAMPLE_ROWS = 200
_REGULAR = 0.8  # Of the sampled rows, so many have the fields that the delimiter gives to the first.


@dataclass(frozen=True)
class Table:
    """The rows of a CSV.

    Attributes:
      columns: the names in the header; without a header their places, counted from "1".
      has_header: whether the names are the file's own.
      rows: for each well-formed row its number, 1 for the first row of data, and as many cells as there are columns.
      rejects: the rows that are not well-formed.
    """

    columns: tuple[str, ...]
    has_header: bool
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    rejects: tuple[Reject, ...]

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column."""
        place = self.columns.index(name)
        return [row[place] for _, row in self.rows]


def read(place: epath.PathLike) -> Table:
    """Reads a CSV without being told its form.

    Known are UTF-8, UTF-16 (with and without byte order marks) and Windows-1252, of which Latin-1 is a part; commas, semicolons,
    tabs, bars and blanks as delimiters; files without a header; and lines of an id, a blank and then the genres with blanks between
    them, which have as many fields as the film has genres. Blank lines are no rows.

    Args:
      place: a file on a disk or on Cloud Storage, or a URL that fsspec knows.

    Raises:
      UserError: there is no such file, it is no text, has no row, or a quotation mark in it is never closed.
      LostService: what holds it does not answer.
    """
    path = urls.shown(os.fspath(place))
    try:
        data = folders.read(os.fspath(place))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--csv={path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"--csv={path} is a folder: name the CSV in it") from None
    text = _decode(data, path)
    try:
        lines = _split(text)
    except csv.Error as error:
        raise UserError(f"--csv={path}: a quotation mark is never closed ({error}): mend the file") from None
    first = next((fields for fields in lines if isinstance(fields, list)), None)
    if first is None:
        raise UserError(f"--csv={path} is empty: it must have a row a film")
    has_header = not _is_data(first, [fields for fields in lines[1:_SAMPLE_ROWS] if isinstance(fields, list)])
    columns = tuple(name.strip() for name in first) if has_header else tuple(str(n + 1) for n in range(len(first)))
    table = _table(columns, has_header, lines[1:] if has_header else lines)
    if not table.rows and not table.rejects:
        raise UserError(f"--csv={path} has a header and no row: it must have a row a film")
    return table


def _decode(data: bytes, path: str) -> str:
    encodings = ["utf-8-sig", "cp1252", "latin-1"]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in data[:4096]:
        # UTF-16 without a mark: the upper bytes of nearly all characters are 0.
        encodings = ["utf-16-le" if data[1:4096:2].count(0) > data[0:4096:2].count(0) else "utf-16-be"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UserError(f"--csv={path} is not a text file: save it as CSV in UTF-8")


def _split(text: str) -> list[list[str] | csv.Error]:
    """Returns the fields of every line that is not blank, or what is wrong with its quotation marks.

    Raises:
      csv.Error: the file ends within quotation marks.
    """
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1]
    delimiter = _delimiter(sample)
    if delimiter is None:
        return [_first_word_and_rest(line) for line in text.splitlines() if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[list[str] | csv.Error] = []
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return lines
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise
            lines.append(error)
            continue
        if len(fields) > 1 or any(field.strip() for field in fields):
            lines.append(fields)


def _first_word_and_rest(line: str) -> list[str]:
    first, *rest = line.split(maxsplit=1)
    # The blanks between genres become bars, unless something else separates them.
    return [first, *(text if re.search(r"[|;,\[]", text) else "|".join(text.split()) for text in rest)]


def _delimiter(sample: str) -> str | None:
    """Returns the delimiter of a file, or None where each line is a first word and the rest."""
    regularity = {}
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            rows = [fields for fields in itertools.islice(reader, _SAMPLE_ROWS) if fields]
        except csv.Error:
            continue
        widths = [_width(fields) for fields in rows]
        if widths and widths[0] > 1:
            regularity[delimiter] = widths.count(widths[0]) / len(widths)
            if regularity[delimiter] >= _REGULAR:
                # By chance the films of a small file have equally many genres.
                has_genres_side_by_side = delimiter == " " and sum(map(cells.names_genres, rows[-1])) > 1
                return None if has_genres_side_by_side else delimiter
    starts = [line.split(maxsplit=1) for line in sample.splitlines()[:_SAMPLE_ROWS] if line.strip()]
    if all(len(start) == 2 and _is_film(start[0]) for start in starts[1:]):
        return None
    return max(regularity, key=lambda delimiter: regularity[delimiter], default=",")


def _width(fields: Sequence[str]) -> int:
    """How many fields a line has; 0 where the delimiter cuts a list in brackets."""
    return len(fields) if all(field.count("[") == field.count("]") for field in fields) else 0


def _is_film(cell: str) -> bool:
    return cells.is_film_id(cell) or cells.names_image(cell)


def _is_data(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first line of a file is a row of data and not a header."""
    if any(_is_film(cell) or cells.is_url(cell) or cells.is_list(cell) for cell in first):
        return True
    # A column called Drama has 0 and 1 below it; one that starts with Drama has genres below it.
    return any(
        cells.names_genres(cell) and any(len(row) > place and cells.names_genres(row[place]) for row in others)
        for place, cell in enumerate(first)
    )


def _table(columns: tuple[str, ...], has_header: bool, lines: Sequence[list[str] | csv.Error]) -> Table:
    rows, rejects = [], []
    for number, fields in enumerate(lines, start=1):
        if isinstance(fields, csv.Error):
            rejects.append(Reject(number, "", Reason.BAD_ROW, "its quotation marks are misplaced"))
            continue
        if not any(field.strip() for field in fields[len(columns) :]):
            fields = fields[: len(columns)]
        if len(fields) == len(columns):
            rows.append((number, tuple(fields)))
        else:
            detail = f"{len(fields)} fields where the first line has {len(columns)}"
            rejects.append(Reject(number, "", Reason.BAD_ROW, detail))
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise UserError(f"--csv has two columns with the name {repeated[0]!r}: rename one")
    return Table(columns, has_header, tuple(rows), tuple(rejects))
