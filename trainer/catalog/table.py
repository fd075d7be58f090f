"""Splits the bytes of any CSV into rows of cells: finds its encoding, its delimiter and whether it has a header."""

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

# If several would do, the first one counts: commas also occur inside URLs and genres, bars and spaces even more often.
_DELIMITERS = ("\t", ";", ",", " ", "|")
_SAMPLE_CHARACTERS = 1 << 16
_SAMPLE_ROWS = 200
_MIN_REGULARITY = 0.8  # With the right delimiter, at least this share of the rows has as many fields as the first row.


@dataclass(frozen=True)
class Table:
    """The rows of a CSV.

    Attributes:
      columns: Names of the columns: from the header, or "1", "2", … in a file without one.
      has_header: Whether the file has a header.
      encoding: Name of the file's encoding, with the byte that is not UTF-8 if UTF-8 was ruled out.
      delimiter: Character between the cells of a row; None if each line is an id, a space and then the genres.
      rows: Number and cells of each well-formed row. The first row of data is 1; a row has as many cells as there are columns.
      rejects: The malformed rows.
    """

    columns: tuple[str, ...]
    has_header: bool
    encoding: str
    delimiter: str | None
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    rejects: tuple[Reject, ...]

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column."""
        index = self.columns.index(name)
        return [row[index] for _, row in self.rows]


def read(csv_path: epath.PathLike) -> Table:
    """Reads a CSV and detects its format.

    It detects:
      - the encoding: UTF-8, UTF-16 (both with and without byte order mark), Windows-1252 (which contains Latin-1);
      - the delimiter: comma, semicolon, tab, bar or space;
      - whether there is a header;
      - lines of an id and then genres, all separated by spaces. Such lines differ in their number of fields.

    Blank lines are skipped; they do not count as rows.

    Args:
      csv_path: Local path, `gs://` URI or URL that fsspec supports.

    Returns:
      The rows of the CSV.

    Raises:
      UserError: The file does not exist, is not text, has no rows, has two columns of the same name, or contains a quotation
        mark that is never closed.
      LostService: The storage of the file does not answer.
    """
    path = urls.shown(os.fspath(csv_path))
    try:
        data = folders.read(os.fspath(csv_path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--csv={path} does not exist: check the path") from None
    except IsADirectoryError:
        raise UserError(f"--csv={path} is a folder: name the CSV in it") from None
    text, encoding = _decode(data, path)
    try:
        lines, delimiter = _split_lines(text)
    except csv.Error:
        raise UserError(f"--csv={path} has a quotation mark that is never closed: close it") from None
    first = next((fields for fields in lines if isinstance(fields, list)), None)
    if first is None:
        raise UserError(f"--csv={path} is empty: give a CSV with one row per film")
    has_header = not _is_data(first, [fields for fields in lines[1:_SAMPLE_ROWS] if isinstance(fields, list)])
    columns = tuple(name.strip() for name in first) if has_header else tuple(str(n + 1) for n in range(len(first)))
    rows, rejects = _check_rows(columns, lines[1:] if has_header else lines)
    if not rows and not rejects:
        raise UserError(f"--csv={path} has a header but no rows: add one row per film")
    return Table(columns, has_header, encoding, delimiter, rows, rejects)


_ENCODING_NAMES = {
    "utf-8-sig": "UTF-8",
    "cp1252": "Windows-1252",
    "latin-1": "Latin-1",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
}


def _decode(data: bytes, path: str) -> tuple[str, str]:
    """Returns the text, and the name of its encoding with the byte that is not UTF-8 if UTF-8 was ruled out."""
    encodings = ["utf-8-sig", "cp1252", "latin-1"]
    evidence = ""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in data[:4096]:
        # UTF-16 without a byte order mark: the high bytes of nearly all characters are 0.
        encodings = ["utf-16-le" if data[1:4096:2].count(0) > data[0:4096:2].count(0) else "utf-16-be"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding == "utf-8-sig":
                evidence = f" (byte 0x{data[error.start]:02x} at offset {error.start:,} is not UTF-8)"
            continue
        if "\0" not in text:
            return text, f"{_ENCODING_NAMES[encoding]}{evidence}"
    raise UserError(f"--csv={path} is not a text file: save it as CSV in UTF-8")


def _split_lines(text: str) -> tuple[list[list[str] | csv.Error], str | None]:
    """Returns the fields of every line that is not blank (or the error that its quotation marks cause), and the delimiter.

    Raises:
      csv.Error: The file ends inside a quoted field.
    """
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1]
    delimiter = _find_delimiter(sample)
    if delimiter is None:
        return [_first_word_and_rest(line) for line in text.splitlines() if line.strip()], None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[list[str] | csv.Error] = []
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return lines, delimiter
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise
            lines.append(error)
            continue
        if len(fields) > 1 or any(field.strip() for field in fields):
            lines.append(fields)


def _first_word_and_rest(line: str) -> list[str]:
    first, *rest = line.split(maxsplit=1)
    # Spaces between genres become bars, unless something else separates them.
    return [first, *(text if re.search(r"[|;,\[]", text) else "|".join(text.split()) for text in rest)]


def _find_delimiter(sample: str) -> str | None:
    """Returns the delimiter of a file, or None if each line is an id, a space and then the genres."""
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
            if regularity[delimiter] >= _MIN_REGULARITY:
                # The films of a small file may all have the same number of genres by chance, and so equally long lines.
                splits_genres = delimiter == " " and sum(map(cells.holds_known_genres, rows[-1])) > 1
                return None if splits_genres else delimiter
    starts = [line.split(maxsplit=1) for line in sample.splitlines()[:_SAMPLE_ROWS] if line.strip()]
    if all(len(start) == 2 and _is_film(start[0]) for start in starts[1:]):
        return None
    return max(regularity, key=lambda delimiter: regularity[delimiter], default=",")


def _width(fields: Sequence[str]) -> int:
    """Returns the number of fields of a line, or 0 if the delimiter cuts a list in brackets."""
    return len(fields) if all(field.count("[") == field.count("]") for field in fields) else 0


def _is_film(cell: str) -> bool:
    return cells.is_film_id(cell) or cells.is_image_path(cell)


def _is_data(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Returns whether the first line of a file is a row of data and not a header."""
    if any(_is_film(cell) or cells.is_url(cell) or cells.is_list(cell) for cell in first):
        return True
    # If Drama is a header, the cells below it are 0 and 1. If it is data, the cells below it are genres too.
    return any(
        cells.holds_known_genres(cell) and any(len(row) > index and cells.holds_known_genres(row[index]) for row in others)
        for index, cell in enumerate(first)
    )


def _check_rows(
    columns: tuple[str, ...], lines: Sequence[list[str] | csv.Error]
) -> tuple[tuple[tuple[int, tuple[str, ...]], ...], tuple[Reject, ...]]:
    """Returns the well-formed rows, each with its number, and the malformed ones as rejects."""
    rows, rejects = [], []
    for number, fields in enumerate(lines, start=1):
        if isinstance(fields, csv.Error):
            rejects.append(Reject(number, "", Reason.BAD_ROW, "misplaced quotation marks"))
            continue
        if not any(field.strip() for field in fields[len(columns) :]):
            fields = fields[: len(columns)]
        if len(fields) == len(columns):
            rows.append((number, tuple(fields)))
        else:
            detail = f"{len(fields)} fields, but the first line has {len(columns)}"
            rejects.append(Reject(number, "", Reason.BAD_ROW, detail))
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise UserError(f"--csv has two columns named {repeated[0]!r}: rename one")
    return tuple(rows), tuple(rejects)
