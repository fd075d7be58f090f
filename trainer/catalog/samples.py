"""A look at the first rows of a table: what the cells of each column are, and what words its name has."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from trainer.catalog import cells
from trainer.catalog.tables.table import Table
from trainer.errors import UserError

_SAMPLE_ROWS = 1000
_MIN_SHARE = 0.8  # A column is of a kind if at least this share of its cells is, without those that have no value.
_MAX_LISTED = 30  # Of the columns of a CSV, so many are named in an error message, each by so many characters at most:
_MAX_NAME = 40
_MAX_DIGITS = 18  # Python refuses to read some thousand digits as a number.

MEASURES = frozenset(
    {
        *("index", "unnamed", "rank", "ranking", "position", "row", "number", "num", "no", "nr", "order", "top"),
        *("year", "date", "month", "day", "decade", "runtime", "duration", "minutes", "mins", "length", "age"),
        *("vote", "votes", "count", "counts", "rating", "ratings", "score", "scores", "popularity"),
        *("members", "favorites", "likes"),
        *("budget", "revenue", "gross", "income", "price", "episodes", "seasons", "reviews", "metascore", "views", "percent"),
    }
)
"""Words in the names of columns that number or measure something: their values tell no film."""


class Samples:
    """The cells with a value in the first rows, by column."""

    def __init__(self, table: Table) -> None:
        self._table = table
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
        if len(sample) < 3 or not all(number.isdecimal() and len(number) <= _MAX_DIGITS for number in sample):
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

    def check(self, flag: str, name: str | None) -> None:
        """Checks that the table has the column that a flag names.

        Raises:
          UserError: It does not.
        """
        if name is not None and name not in self.cells:
            raise UserError(f"{flag}={name} is not a column of the CSV: choose among {self.listing()}")

    def listing(self) -> str:
        """Returns the names of the columns for an error message."""
        names = ", ".join(repr(name[:_MAX_NAME]) for name in self._table.columns[:_MAX_LISTED])
        more = f" and {len(self.cells) - _MAX_LISTED} more" if len(self.cells) > _MAX_LISTED else ""
        return f"{names}{more}" if self._table.has_header else f"{names}{more} (the CSV has no header)"


def plain(name: str) -> str:
    """Returns a column's name in lower case, without accents, blanks and punctuation."""
    letters = unicodedata.normalize("NFD", name.casefold())
    return re.sub(r"[\W_]", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))


def words(name: str) -> list[str]:
    """Returns the words of a column's name in lower case: those of `numVotes` are num and votes."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).casefold())
