"""Which column of a CSV names the files of an image folder: found by looking its values up there."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

from trainer.catalog import cells
from trainer.images.decode import ImageError
from trainer.sources.lookup import ImageFinder

_SAMPLE_ROWS = 2000
_MIN_SHARE = 0.2  # Fewer of a column's values name files by chance.
_CLEAR = 0.9
_MARGIN = 0.1  # An image column may have this share of missing images more than an id, which then also names the files.


class Naming(enum.IntEnum):
    """What a column looks like, by its name and its values: the likelier it names images, the lower."""

    IMAGE = 0
    ID = 1
    TEXT = 2
    NUMBER = 3
    COUNTER = 4  # Numbers of which each is one more than the one before.
    INDEX = 5  # A column without a name, a rank, year, count or measure: its values may name files by chance.


@dataclass(frozen=True)
class Evidence:
    """How well the values of a column name the files of a folder.

    Attributes:
      values: Share of the values that name a file, from 0 to 1.
      files: Share of the files that a value names, from 0 to 1.
    """

    values: float
    files: float


def best(rows: pd.DataFrame, finder: ImageFinder, namings: Mapping[str, Naming]) -> str | None:
    """Finds the column that names the files of a folder.

    Args:
      rows: The rows of the CSV.
      finder: The images of the folder.
      namings: The columns that may name them, and what they look like; of two equally good ones the first one counts.

    Returns:
      The column most values of which name a file, or None. An index, a rank or a measure is chosen only if its values name all
      files, and no id, image or title names half as many.
    """
    step = max(1, len(rows) // _SAMPLE_ROWS)
    sample = rows.iloc[::step]
    found = {name: _evidence(sample[name].tolist(), finder) for name in namings}
    share = {name: evidence.values for name, evidence in found.items()}
    if max(share.values(), default=0.0) < _MIN_SHARE:
        # A large CSV beside a few images: what a sample of the rows does not show, all rows do.
        if step > 1:
            found = {name: _evidence(_possible(rows[name], finder), finder) for name in namings}
        share = {name: evidence.files for name, evidence in found.items()}
    likely = [name for name in namings if share[name] >= _MIN_SHARE]
    named = [name for name in likely if namings[name] <= Naming.TEXT]
    numbers = [name for name in likely if namings[name] > Naming.TEXT]
    best_named = max((share[name] for name in named), default=0.0)
    all_files = any(share[name] >= _CLEAR and found[name].files >= _CLEAR for name in numbers)
    if named and (best_named >= _CLEAR / 2 or not all_files):
        close = [name for name in named if share[name] >= best_named - _MARGIN]
        return min(close, key=lambda name: (namings[name] != Naming.IMAGE, -round(share[name], 2), namings[name]))
    return min(numbers, key=lambda name: (namings[name], -share[name]), default=None)


def _evidence(values: Sequence[str], finder: ImageFinder) -> Evidence:
    naming: list[str] = []
    files: set[str] = set()
    for value in values:
        try:
            files.add(finder.find(value).path)
        except ImageError:
            continue
        naming.append(value)
    if len(files) < 0.5 * len(set(naming)):  # Many values that lead to one file name no images.
        return Evidence(0.0, 0.0)
    return Evidence(len(naming) / max(len(values), 1), len(files) / max(finder.count, 1))


def _possible(column: pd.Series, finder: ImageFinder) -> list[str]:
    """Returns the different values of a column that may name a file."""
    paths = [PurePosixPath(path) for path in finder.image_paths()]
    names = {name for path in paths for name in (path.name, path.stem, _simple(path.stem))}
    different = column.drop_duplicates()
    return different[different.map(_simple).isin(names) | different.isin(names)].tolist()


def _simple(name: str) -> str:
    """Returns an id without `tt`, leading zeros and the fraction of a float; another name as it is, without surrounding blanks."""
    name = name.strip()
    digits = cells.without_fraction(name.removeprefix("tt"))
    return digits.lstrip("0") or "0" if digits.isdecimal() else name
