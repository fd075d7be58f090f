"""Splits the lines of a CSV into records of fields, and loses no row to a quotation mark that quotes nothing."""

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# csv's own limit of 128 KiB is below the script of a film. It is a number of C's long, which has 32 bits on some systems.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))

# How many lines may be read again, after a mark was taken for the beginning of a long quoted field, in addition to twice the
# lines of the file: so a file full of such marks takes no more than a few times as long as another one.
_MAX_READ_AGAIN = 100_000


@dataclass(frozen=True)
class Dialect:
    """How the fields of a CSV are written.

    Attributes:
      delimiter: Text between two fields; None if each line is an id, a blank and then the genres.
      quoting: Whether a field may be in quotation marks, and then hold delimiters and line ends.
    """

    delimiter: str | None
    quoting: bool = True


class Records:
    """The records of a CSV, each a list of fields.

    Where quoting does not work out for a line (a mark is never closed, or something follows its end), the line is read again with
    every mark as part of the text. Lines without any character but blanks are skipped.

    Attributes:
      quoted: Number of records so far for which quotation marks did what they are for: they hold a delimiter, a line end or a mark.
      unquoted: Number of lines so far that were read with every mark as part of the text, as quoting does not work out for them.
    """

    def __init__(self, lines: Iterable[str], dialect: Dialect, *, width: int | None = None) -> None:
        """Prepares to read.

        Args:
          lines: The lines of the file, with their ends.
          dialect: How the fields are written.
          width: Number of fields of most records, if it is known. A mark in a line that has as many fields without quoting, as
            have all lines up to the next mark, opens no field.
        """
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._may_read_again = _MAX_READ_AGAIN
        self._dialect = dialect
        self._width = width
        self.quoted = 0
        self.unquoted = 0

    def __iter__(self) -> Iterator[list[str]]:
        delimiter, quoting = self._dialect.delimiter, self._dialect.quoting
        while True:
            line = self._again.popleft() if self._again else next(self._lines, None)
            if line is None:
                return
            self._may_read_again += 2
            if delimiter is None:
                fields = line.strip().split(maxsplit=1) or [""]
            elif quoting and '"' in line:
                fields = self._quoted(line, delimiter)
            else:
                fields = _split(line, delimiter)
            if len(fields) > 1 or fields[0].strip():
                yield fields

    def _quoted(self, line: str, delimiter: str) -> list[str]:
        taken = [line]

        def following() -> Iterator[str]:
            yield line
            while len(taken) <= self._may_read_again:
                more = self._again.popleft() if self._again else next(self._lines, None)
                if more is None:
                    return
                taken.append(more)
                yield more

        fields, _ = _parsed(following(), delimiter)
        if '\\"' in line and (fields is None or (self._width and len(fields) != self._width)):
            # MySQL writes \" for a mark inside a quoted field.
            escaped, used = _parsed(taken, delimiter, escapechar="\\")
            if escaped and self._width in (None, len(escaped)):
                self._again.extendleft(reversed(taken[used:]))
                fields, taken = escaped, taken[:used]
        if fields is None:
            return self._read_again(taken, delimiter)
        if len(taken) > 1 and self._width and self._is_unquoted(taken, len(fields)):
            return self._read_again(taken, delimiter)
        self.quoted += len(taken) > 1 or [field.strip(' "') for field in fields] != [
            field.strip(' "') for field in _split(line, delimiter)
        ]
        return fields

    def _is_unquoted(self, taken: list[str], fields: int) -> bool:
        """Returns whether a mark in the first of several lines opens no field: each line is a whole record without it."""
        delimiter = str(self._dialect.delimiter)
        whole = [len(_split(line, delimiter)) == self._width for line in taken]
        return all(whole) or (whole[0] and fields != self._width)

    def _read_again(self, taken: list[str], delimiter: str) -> list[str]:
        """Returns the fields of the first line with every mark as part of the text, and puts the other lines back."""
        self.unquoted += 1
        self._may_read_again = max(1, self._may_read_again - len(taken))
        self._again.extendleft(reversed(taken[1:]))
        return _split(taken[0], delimiter)


def _parsed(lines: Iterable[str], delimiter: str, *, escapechar: str | None = None) -> tuple[list[str] | None, int]:
    """Returns the fields of the first record, None if quoting does not work out, and the number of its lines."""
    reader = csv.reader(lines, delimiter=delimiter, escapechar=escapechar, skipinitialspace=True, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return None, reader.line_num


def _split(line: str, delimiter: str) -> list[str]:
    fields = line.rstrip("\r\n").split(delimiter)
    return [field.lstrip(" ") for field in fields] if f"{delimiter} " in line else fields
