"""Which column of a CSV names the files of an image folder: found by looking its values up there."""

import enum
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import pandas as pd

from trainer.images.decode import ImageError
from trainer.sources.lookup import ImageFinder

_SAMPLE_ROWS = 2000
_MIN_EVIDENCE = 0.2  # Fewer of a column's values name files by chance.
_CLEAR = 0.9
_MARGIN = 0.1  # An image column may have this share of missing images more than an id, which then also names the files.


class Naming(enum.IntEnum):
    """What a column looks like, by its name and its values: the likelier it names images, the lower."""

    IMAGE = 0
    ID = 1
    TEXT = 2
    NUMBER = 3
    INDEX = 4  # An index, rank, year, count or measure: its values may name files by chance.


class Evidence:
    """How well the columns of a table name the files of a folder.

    A column's evidence is the share of its values that name a file, or the share of the files that it names: the larger of both.
    """

    def __init__(self, rows: pd.DataFrame, finder: ImageFinder) -> None:
        self._rows = rows
        self._finder = finder

    def best(self, namings: Mapping[str, Naming]) -> str | None:
        """Returns the column that names the files; None if none of them does.

        Args:
          namings: The columns to look at.
        """
        step = max(1, len(self._rows) // _SAMPLE_ROWS)
        sample = self._rows.iloc[::step]
        evidence = {name: self._of(sample[name].tolist()) for name in namings}
        if max(evidence.values(), default=0.0) < _MIN_EVIDENCE and step > 1:
            # A large CSV beside a few images: what a sample does not show, all rows do.
            evidence = {name: self._of(self._possible(self._rows[name])) for name in namings}
        likely = [name for name in namings if evidence[name] >= _MIN_EVIDENCE]
        named = [name for name in likely if namings[name] <= Naming.TEXT]
        numbers = [name for name in likely if namings[name] > Naming.TEXT]
        best_named = max((evidence[name] for name in named), default=0.0)
        if named and (best_named >= 0.5 or all(evidence[name] < _CLEAR for name in numbers)):
            close = [name for name in named if evidence[name] >= best_named - _MARGIN]
            return min(close, key=lambda name: (namings[name] != Naming.IMAGE, -round(evidence[name], 2), namings[name]))
        if not numbers:
            return None
        return min(numbers, key=lambda name: (namings[name], -evidence[name]))

    def _of(self, cells: Iterable[str]) -> float:
        values, named = 0, 0
        files: set[str] = set()
        different: set[str] = set()
        for cell in cells:
            values += 1
            try:
                files.add(self._finder.find(cell).path)
            except ImageError:
                continue
            named += 1
            different.add(cell)
        if len(files) < 0.5 * len(different):  # Many values that lead to one file name no images.
            return 0.0
        return max(named / max(values, 1), len(files) / max(self._finder.count, 1))

    def _possible(self, column: pd.Series) -> list[str]:
        """Returns the different values of a column that may name a file."""
        paths = [PurePosixPath(path) for path in self._finder.image_paths()]
        different = column.drop_duplicates()
        simple = different.str.strip().str.replace(r"^(tt)?0*(\d+)(\.0+)?$", r"\2", regex=True)
        names = {name for path in paths for name in (path.name, _simple(path.stem))}
        return different[simple.isin(names) | different.isin(names)].tolist()


def _simple(stem: str) -> str:
    return str(int(digits)) if (digits := stem.removeprefix("tt")).isdecimal() else stem
