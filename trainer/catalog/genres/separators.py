"""What separates the genres in the cells of a column: found from all its cells, as a single cell cannot tell.

`Science Fiction Drama` may be two genres or one. But if `Drama` also occurs without what is before it, and `Science` always has
`Fiction` behind it, then the column as a whole tells.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainer.catalog.genres import known

# These separate wherever they occur. The commoner one counts, and of equals the first: a genre may hold a comma of its own.
_CLEAR = ("|", ";", "\n", "<br>", "•", "；", "、", "，", ",")
# Names of genres hold these too, so that the cells have to show that they separate.
_UNCLEAR = ("/", "／", "-", "–", "·", "・", "+", ":", "\u3000", " ")
_HTML_ENTITY = re.compile(r"&#?\w+;")  # Its semicolon separates nothing.
_MIN_SHARE_OF_COMMONEST = 0.2
_MIN_TOGETHER = 2  # So often two parts must occur, and always together, to be one name.
_MIN_NAMES_WITH_COMMA = 3


@dataclass(frozen=True)
class Separator:
    """What separates genres.

    Attributes:
      text: The text between two genres.
      joined: Pairs of neighbouring parts, in lower case, that are not separated: they are one name.
    """

    text: str
    joined: frozenset[tuple[str, str]] = frozenset()

    def split(self, cell: str) -> list[str]:
        """Returns the parts of a cell between the separators, without surrounding blanks; names with a separator stay whole."""
        parts = _parts(cell, self.text)
        names: list[str] = []
        start = 0
        while start < len(parts):
            end = next((end for end in range(len(parts), start, -1) if self._is_one(parts[start:end])), start + 1)
            names.append(_glue(self.text).join(parts[start:end]))
            start = end
        return names

    def _is_one(self, parts: Sequence[str]) -> bool:
        if len(parts) == 1:
            return True
        if known.is_one_name(_glue(self.text).join(parts)):
            return True
        return bool(self.joined) and all(pair in self.joined for pair in pairwise(part.casefold() for part in parts))


def find(cells: Mapping[str, int]) -> Separator | None:
    """Finds what separates the genres of a column.

    Args:
      cells: The different cells of the column that are neither lists nor missing, each with the number of its rows.

    Returns:
      The separator; None if each cell holds one genre.
    """
    plain = {_HTML_ENTITY.sub("", cell.strip()): count for cell, count in cells.items()}
    rows = {text: sum(count for cell, count in plain.items() if text in cell) for text in _CLEAR}
    commonest = max(rows.values(), default=0)
    if commonest:
        text = next(text for text in _CLEAR if rows[text] >= max(1, _MIN_SHARE_OF_COMMONEST * commonest))
        return None if text == "," and _Evidence(cells, text).shows_names() else Separator(text)
    for text in _UNCLEAR:
        evidence = _Evidence(cells, text)
        if evidence.shows_separator():
            # Action/Adventure / Drama: only what has blanks around it separates, unless the others separate as well.
            spaced = f" {text} "
            if text != " " and any(spaced in cell for cell in cells):
                inner: Counter[str] = Counter()
                for cell, count in cells.items():
                    inner.update(dict.fromkeys(_parts(cell, spaced), count))
                if not _Evidence(inner, text).shows_separator():
                    return Separator(spaced)
            return Separator(text, evidence.joined())
    return None


def _parts(cell: str, separator: str) -> list[str]:
    return [part for part in (part.strip() for part in cell.split(separator)) if part]


def _glue(separator: str) -> str:
    return f"{separator} " if separator == "," else separator


class _Evidence:
    """What the cells of a column say about a text between two parts: whether each of the two also occurs without the other."""

    def __init__(self, cells: Mapping[str, int], text: str) -> None:
        self._text = text
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._rows: Counter[str] = Counter()
        self._before: dict[str, set[str | None]] = defaultdict(set)
        self._behind: dict[str, set[str | None]] = defaultdict(set)
        self._longest = 1
        for cell, count in cells.items():
            parts = [part.casefold() for part in _parts(cell, text)]
            self._longest = max(self._longest, len(parts))
            for left, right in pairwise((None, *parts, None)):
                if left is not None:
                    self._behind[left].add(right)
                if right is not None:
                    self._before[right].add(left)
                    self._rows[right] += count
                if left is not None and right is not None:
                    self._pairs[left, right] += count

    def shows_separator(self) -> bool:
        """Returns whether the text separates: its parts recombine, or are well-known genres."""
        apart = {pair: rows for pair, rows in self._pairs.items() if not self._is_one_name(pair) and not self._is_together(pair)}
        of_known = {pair for pair in apart if all(map(known.is_known, pair))}
        if apart and len(of_known) == len(apart):
            return True
        free = {pair: rows for pair, rows in apart.items() if self._is_free(pair) or pair in of_known}
        if len(free) < 2 or sum(free.values()) < 0.5 * sum(apart.values()):
            return False
        # "Romantic Comedy" and "Action Comedy" recombine too. Lists are of different lengths, and their parts come again.
        repeats = sum(self._rows.values()) / len(self._rows)
        return self._text != " " or (self._longest > 2 and repeats >= 2)

    def shows_names(self) -> bool:
        """Returns whether the text is a part of names: what is around it never occurs in another way."""
        return len(self._pairs) >= _MIN_NAMES_WITH_COMMA and all(map(self._is_together, self._pairs))

    def joined(self) -> frozenset[tuple[str, str]]:
        """Returns the pairs that are one name although the text is between them."""
        return frozenset(pair for pair in self._pairs if self._is_together(pair) and not all(map(known.is_known, pair)))

    def _is_free(self, pair: tuple[str, str]) -> bool:
        left, right = pair
        return len(self._behind[left]) > 1 and len(self._before[right]) > 1

    def _is_together(self, pair: tuple[str, str]) -> bool:
        left, right = pair
        return self._pairs[pair] >= _MIN_TOGETHER and self._behind[left] == {right} and self._before[right] == {left}

    def _is_one_name(self, pair: tuple[str, str]) -> bool:
        return known.is_one_name(self._text.join(pair))
