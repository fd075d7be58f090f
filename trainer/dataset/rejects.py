"""rejects.csv: the rows of a CSV that do not become an example, and the reasons."""

import csv
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class Reason(enum.StrEnum):
    """Why a row does not become an example: the possible values of the column `reason` in rejects.csv.

    A row has one reason, the first in this list that applies.
    """

    BAD_ROW = "bad_row"  # It has more or fewer fields than the header, or is not a JSON object.
    NO_ID = "no_id"  # Its id is empty.
    REPEATED = "repeated"  # An earlier row has the same id, and this one adds no genre, or is about another image.
    BAD_GENRES = "bad_genres"  # Its genres cannot be read, such as a list without an end, or a "2" in a column of 0 and 1.
    NO_GENRE = "no_genre"  # It names no genre; N/A and the like do not count as one.
    BAD_SPLIT = "bad_split"  # Its split (--split_column) is neither train, validation nor test.
    NO_PICTURE = "no_picture"  # The folder does not contain its image, or the file cannot be read.
    OUTSIDE_FOLDER = "outside_folder"  # The path of its image leads out of the folder; the file is not opened.
    NOT_FETCHED = "not_fetched"  # Its URL returned no image.
    EMPTY = "empty"  # The image has 0 bytes.
    TOO_LARGE = "too_large"  # The image has more bytes or more pixels than is allowed.
    UNSUPPORTED_FORMAT = "unsupported_format"  # The image is neither JPEG, PNG nor WebP.
    TRUNCATED = "truncated"  # The end of the image file is missing.
    CORRUPT = "corrupt"  # The image cannot be decoded.
    SHARED_PICTURE = "shared_picture"  # An earlier film has the same image, and --split_column puts the two into different splits.
    RARE_GENRE_ONLY = "rare_genre_only"  # Each of its genres has fewer films than --min_examples.


@dataclass(frozen=True, order=True, slots=True)
class Reject:
    """A row that does not become an example.

    Attributes:
      row: the number of the row, 1 for the first row of data.
      id: the film's id; empty if the row has none.
      reason: why the row is rejected.
      detail: the reason in words, with the value.
    """

    row: int
    id: str
    reason: Reason
    detail: str


def write(rejects: Iterable[Reject], path: Path) -> None:
    """Writes rejects.csv: UTF-8, with the columns row, id, reason and detail, sorted by row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "id", "reason", "detail"))
        for reject in sorted(rejects, key=lambda reject: reject.row):
            writer.writerow((reject.row, reject.id, reject.reason.value, reject.detail))
