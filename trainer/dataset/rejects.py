"""The rows of a CSV that become no example, and why."""

import csv
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class Reason(enum.StrEnum):
    """Why a row is no example: the closed list that the column `reason` of rejects.csv is drawn from.

    A row has one reason, the first of this list that applies.
    """

    BAD_ROW = "bad_row"  # It has not as many fields as the header, or its quotation marks are misplaced.
    NO_ID = "no_id"  # It names no film.
    REPEATED = "repeated"  # An earlier row has the same id; the first one counts.
    BAD_GENRES = "bad_genres"  # Its genres cannot be read: a list without an end, a "2" in a column of 0 and 1.
    NO_GENRE = "no_genre"  # It names no genre; N/A and its like are none.
    BAD_SPLIT = "bad_split"  # Its split (--split_column) is neither train, validation nor test.
    NO_PICTURE = "no_picture"  # The folder holds no such picture, or it cannot be read.
    OUTSIDE_FOLDER = "outside_folder"  # Its path leaves the folder of the pictures; the file is not opened.
    NOT_FETCHED = "not_fetched"  # Its URL gave no picture.
    EMPTY = "empty"  # The picture has 0 bytes.
    TOO_LARGE = "too_large"  # The picture has more bytes or more pixels than a poster can have.
    UNSUPPORTED_FORMAT = "unsupported_format"  # The picture is neither JPEG, PNG nor WebP.
    TRUNCATED = "truncated"  # The picture's end is missing.
    CORRUPT = "corrupt"  # The picture cannot be decoded.
    SHARED_PICTURE = "shared_picture"  # An earlier film has the same picture, and --split_column parts them.
    RARE_GENRE_ONLY = "rare_genre_only"  # All its genres have fewer films than --min_examples.


@dataclass(frozen=True, order=True)
class Reject:
    """A row that becomes no example. `row` is 1 for the first row of data; `id` is empty where the row has none."""

    row: int
    id: str
    reason: Reason
    detail: str


def write(rejects: Iterable[Reject], path: Path) -> None:
    """Writes rejects.csv (UTF-8; columns row, id, reason, detail), in the order of the rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "id", "reason", "detail"))
        for reject in sorted(rejects):
            writer.writerow((reject.row, reject.id, reject.reason.value, reject.detail))
