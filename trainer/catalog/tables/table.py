"""Splits the bytes of any CSV into a table of cells: finds its encoding, its delimiter and whether it has a header."""

import io
import itertools
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from etils import epath

from trainer.catalog import cells
from trainer.catalog.genres import lists
from trainer.catalog.tables import dialects, encodings, import_files, json_lines
from trainer.catalog.tables.encodings import Encoding
from trainer.catalog.tables.records import Dialect, Records
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError
from trainer.process.progress import progress
from trainer.sources import folders
from trainer.storage import urls

_SAMPLE_LINES = 1000
_SAMPLE_CHARACTERS = 1 << 20
_CHUNK_ROWS = 100_000  # Rows that become columns at once.
_MAX_SHARED = 10_000  # Different cells of a column up to which equal cells are one object, which saves memory.
_LINES_WITHOUT_PROGRESS = 500_000  # Fewer are read within a second.
_MIN_REGULARITY = 0.8
_WITHOUT_NAME = re.compile(r"column \d+")
_EXCEL_HINT = re.compile(r"\"?sep=.\"?", re.IGNORECASE)  # A first line that tells Excel the delimiter.

_NAMES_OF_DELIMITERS = {
    "\t": "tab-separated",
    ",": "comma-separated",
    ";": "semicolon-separated",
    "|": "separated by bars",
    "::": "separated by two colons",
    " ": "separated by blanks",
    None: "an id, a blank and the genres in each line",
}


@dataclass(frozen=True)
class Table:
    """The rows of a CSV.

    Attributes:
      rows: The cells of the well-formed rows, as str; the columns have different names. The index is the row's number: the first
        row of data is 1.
      has_header: Whether the columns have names, and not numbers: "1", "2", ….
      read_as: How the file was read, in words: encoding, delimiter, quoting, header.
      is_import_file: Whether it is an import file of Vertex AI or JSON Lines, where a column may assign the splits.
      genres_after_blanks: Whether each line is an id, a blank, and then the genres.
      warnings: What the user should check, one line each.
      rejects: The malformed rows.
    """

    rows: pd.DataFrame
    has_header: bool = True
    read_as: str = ""
    is_import_file: bool = False
    genres_after_blanks: bool = False
    warnings: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the names of the columns."""
        return tuple(self.rows.columns)

    @staticmethod
    def is_without_name(column: str) -> bool:
        """Returns whether a column has no name in the header, so that its number is its name."""
        return _WITHOUT_NAME.fullmatch(column) is not None


def read(csv_path: epath.PathLike) -> Table:
    """Reads a CSV and detects its format.

    It detects:
      - the encoding (see `encodings.detect`);
      - the delimiter: comma, semicolon, tab, bar, two colons or blank;
      - whether quotation marks quote, and single ones that do not;
      - whether there is a header;
      - lines of an id and then genres, all separated by blanks. Such lines differ in their number of fields;
      - the import files of Vertex AI (see `import_files`), and JSON Lines.

    Blank lines are skipped; they do not count as rows.

    Args:
      csv_path: Local path, `gs://` URI or URL that fsspec supports.

    Returns:
      The rows of the CSV.

    Raises:
      UserError: The file does not exist, is not text or has no rows.
      LostService: The storage of the file does not answer.
    """
    path = urls.shown(os.fspath(csv_path))
    try:
        data = folders.read(os.fspath(csv_path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--csv={path} does not exist: check the path") from None
    except IsADirectoryError:
        raise UserError(f"--csv={path} is a folder: name the CSV in it") from None
    text = _Text(data, encodings.detect(data, path))
    sample = list(_beginning(text.lines()))
    table = _read_json(text) if json_lines.are_json(sample) else _read_records(text, sample, path)
    if table.rows.empty and not table.rejects:
        raise UserError(f"--csv={path} has a header but no rows: add one row per film")
    return table


@dataclass(frozen=True)
class _Text:
    data: bytes
    encoding: Encoding

    def lines(self) -> Iterator[str]:
        """Yields the lines with their ends, without a first line that tells Excel the delimiter."""
        lines = io.TextIOWrapper(io.BytesIO(self.data), self.encoding.codec, self.encoding.errors, newline="")
        first = next(lines, "")
        if not _EXCEL_HINT.fullmatch(first.strip()):
            yield first
        yield from lines

    def lines_with_progress(self) -> Iterator[str]:
        """Yields the lines as `lines` does, and shows the progress if there are many."""
        count = self.data.count(b"\n")
        yield from self.lines() if count < _LINES_WITHOUT_PROGRESS else progress(self.lines(), total=count, what="reading lines")

    def read_as(self, how: str) -> str:
        """Describes how the file was read."""
        evidence = f" ({self.encoding.evidence})" if self.encoding.evidence else ""
        return f"read as {self.encoding.name}{evidence}, {how}"

    def warnings(self) -> list[str]:
        if not self.encoding.guessed:
            return []
        return [f"the encoding {self.encoding.name} was guessed: check the genres above, or save the CSV in UTF-8"]


def _beginning(lines: Iterable[str]) -> Iterator[str]:
    characters = 0
    for line in itertools.islice(lines, _SAMPLE_LINES):
        yield line
        characters += len(line)
        if characters > _SAMPLE_CHARACTERS:
            return


@dataclass(frozen=True)
class _Shape:
    """What the first lines of a file tell: its dialect, its columns, and what turns a record into cells of these columns."""

    dialect: Dialect
    columns: tuple[str, ...]
    has_header: bool
    cells: Callable[[list[str]], list[str]] | None = None


def _shape(sample: Sequence[str]) -> _Shape:
    import_dialect = Dialect(",")
    if import_files.is_import_file(list(Records(sample, import_dialect))):
        return _Shape(import_dialect, import_files.COLUMNS, False, import_files.columns)
    dialect = dialects.find(sample)
    first, *others = itertools.islice(Records(sample, dialect), _SAMPLE_LINES)
    if _is_data(first, others):
        # A later line may be shorter or longer, but not most of them.
        return _Shape(dialect, tuple(str(number + 1) for number in range(len(first))), False)
    longer = [fields for fields in others if dialects.width(fields) == len(first) + 1 and fields[-1].strip()]
    if len(longer) >= max(2, _MIN_REGULARITY * len(others)):
        first = ["", *first]  # R writes the names of the rows, and no name above them.
    return _Shape(dialect, _different([name.strip() for name in first]), True)


def _read_records(text: _Text, sample: Sequence[str], path: str) -> Table:
    if not any(line.strip() for line in sample):
        raise UserError(f"--csv={path} is empty: give a CSV with one row per film")
    shape = _shape(sample)
    width = None if shape.cells else len(shape.columns)
    records = Records(text.lines_with_progress(), shape.dialect, width=width)
    rows, rejects = _columns(records, shape)
    quoting = ""
    if records.unquoted and not records.quoted:
        # IMDb's files know no quoting: "Lantern" Moran is a name. So "Moran", alone in its field, is one with its marks.
        records = Records(text.lines_with_progress(), Dialect(shape.dialect.delimiter, quoting=False))
        rows, rejects = _columns(records, shape)
        quoting = ", no quoting"
    elif records.unquoted:
        quoting = f", in {records.unquoted:,} rows with quotation marks that quote nothing"
    if shape.cells:
        header = "an import file of Vertex AI"
    elif shape.has_header:
        header = "with a header"
    else:
        header = "without a header: columns are called by their number"
    how = f"{_NAMES_OF_DELIMITERS[shape.dialect.delimiter]}{quoting}, {header}"
    return Table(
        rows=rows,
        has_header=shape.has_header or shape.cells is not None,
        read_as=text.read_as(how),
        is_import_file=shape.cells is not None,
        genres_after_blanks=shape.dialect.delimiter is None,
        warnings=tuple(text.warnings()),
        rejects=rejects,
    )


def _columns(records: Records, shape: _Shape) -> tuple[pd.DataFrame, tuple[Reject, ...]]:
    """Returns the well-formed rows, and the malformed ones as rejects."""
    names = shape.columns
    found: list[list[str]] = [[] for _ in names]
    shared: list[dict[str, str]] = [{} for _ in names]
    numbers = array("q")
    rejects = []

    def flush(chunk: list[list[str]]) -> None:
        for column, known, values in zip(found, shared, zip(*chunk, strict=True), strict=True):
            column.extend(values if len(known) > _MAX_SHARED else (known.setdefault(value, value) for value in values))
        chunk.clear()

    chunk: list[list[str]] = []
    rows = iter(records)
    if shape.has_header:
        next(rows)
    for number, record in enumerate(rows, start=1):
        fields = shape.cells(record) if shape.cells else record
        if len(fields) > len(names) and not any(field.strip() for field in fields[len(names) :]):
            fields = fields[: len(names)]
        if len(fields) != len(names):
            detail = f"{len(fields)} fields, but the first line has {len(names)}"
            rejects.append(Reject(number, "", Reason.BAD_ROW, detail))
            continue
        numbers.append(number)
        chunk.append(fields)
        if len(chunk) == _CHUNK_ROWS:
            flush(chunk)
    if chunk:
        flush(chunk)
    frame = pd.DataFrame(
        {name: pd.Series(column, index=numbers, dtype=str) for name, column in zip(names, found, strict=True)}, columns=list(names)
    )
    return frame, tuple(rejects)


def _read_json(text: _Text) -> Table:
    found: dict[int, dict[str, str]] = {}
    names: dict[str, None] = {}
    rejects = []
    for number, record in enumerate(json_lines.records(text.lines_with_progress()), start=1):
        if record is None:
            rejects.append(Reject(number, "", Reason.BAD_ROW, "not a JSON object"))
        else:
            found[number] = record
            names.update(dict.fromkeys(record))
    columns = {name: pd.Series([record.get(name, "") for record in found.values()], index=list(found), dtype=str) for name in names}
    rows = pd.DataFrame(columns, columns=list(names))
    return Table(
        rows=rows, read_as=text.read_as("JSON Lines"), is_import_file=True, warnings=tuple(text.warnings()), rejects=tuple(rejects)
    )


def _different(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names for the columns of which no two are equal: as pandas does, `genre` and `genre.1`; `column 1` for no name."""
    different: list[str] = []
    for number, name in enumerate(names, start=1):
        name = name or f"column {number}"
        candidates = itertools.chain([name], (f"{name}.{again}" for again in itertools.count(1)))
        different.append(next(candidate for candidate in candidates if candidate not in different))
    return tuple(different)


def _is_data(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Returns whether the first line of a file is a row of data and not a header."""
    names = [cell for cell in first if cell.strip()]
    if len(names) > 1 and names == [str(number) for number in range(len(names))]:
        return False  # So pandas numbers the columns that have no names.
    if any(dialects.is_film(cell) or cells.is_url(cell) or lists.is_list(cell) for cell in first):
        return True
    # If Drama is a header, the cells below it are 0 and 1. If it is data, the cells below it are genres too.
    return any(
        cells.holds_known_genres(cell) and any(len(row) > index and cells.holds_known_genres(row[index]) for row in others)
        for index, cell in enumerate(first)
    )
