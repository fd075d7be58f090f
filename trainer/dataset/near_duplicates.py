"""near_duplicates.csv of a data set: films whose poster also appears, almost unchanged, in another split."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.manifest import REMEDY, SPLITS, Dataset
from trainer.errors import UserError
from trainer.storage import files

FILE = "near_duplicates.csv"

_COLUMNS = ("id", "split", "other_id", "other_split", "distance")


@dataclass(frozen=True)
class NearDuplicate:
    """A film, and the film of another split with the most similar poster.

    Attributes:
      id: the film's id.
      split: the film's split.
      other_id: the other film's id.
      other_split: the other film's split.
      distance: the number of bits in which the perceptual hashes of the two posters differ.
    """

    id: str
    split: str
    other_id: str
    other_split: str
    distance: int


def counts(found: Iterable[NearDuplicate]) -> Mapping[tuple[str, str], int]:
    """Returns the number of films for each pair (split, other split)."""
    return Counter((one.split, one.other_split) for one in found)


def write(found: Sequence[NearDuplicate], path: Path) -> None:
    """Writes near_duplicates.csv: UTF-8, with the columns id, split, other_id, other_split and distance."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((one.id, one.split, one.other_id, one.other_split, one.distance) for one in found)


def leaked(dataset: Dataset, split: str) -> frozenset[str] | None:
    """Returns the ids of a split's films whose poster also appears in another split.

    Args:
      dataset: the data set.
      split: the name of the split, one of `manifest.SPLITS`.

    Returns:
      The ids; None if the data set has no near_duplicates.csv, because an earlier version of prepare wrote it.

    Raises:
      UserError: the data set's near_duplicates.csv is damaged.
    """
    path = dataset.path / FILE
    try:
        content = files.read(path)
    except FileNotFoundError:
        return None
    try:
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        if tuple(header) != _COLUMNS or any(len(row) != len(_COLUMNS) or row[1] not in SPLITS for row in rows):
            raise ValueError("it has other columns or splits than prepare writes")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}): restore it or {REMEDY}") from None
    return frozenset(film_id for film_id, in_split, *_ in rows if in_split == split)
