"""python -m trainer.prepare: a CSV of films and a folder of posters become a data set of TFRecord shards.

    python -m trainer.prepare --csv=films.csv --images=posters/ --output=dataset/
    python -m trainer.prepare --csv=gs://bucket/films.csv --images=gs://bucket/posters.zip --output=gs://bucket/dataset

Every row of the CSV becomes an example or a line of rejects.csv that says why not. The same input gives the same bytes.
"""

import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import flags
from etils import epath

from trainer.catalog import catalog, columns
from trainer.dataset import manifest, near_duplicates, rejects
from trainer.dataset.manifest import Dataset
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.dataset.rejects import Reject
from trainer.errors import Stopped, UserError
from trainer.preparation import build, publishing, staging
from trainer.process import entry, tables
from trainer.sources import web
from trainer.storage import files, urls

_LEAST_SIDE = 32  # The networks halve a picture up to four times, and are to see more than a pixel in the end.

_CSV = flags.DEFINE_string("csv", None, "The CSV, a row a film, in any common form: local, gs://… or a URL.", required=True)
_IMAGES = flags.DEFINE_string(
    "images", None, "The folder or zip archive of the posters: local, gs://… or a URL; not needed if the CSV has URLs."
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder that becomes the data set: local or gs://…", required=True)
_HEIGHT = flags.DEFINE_integer("height", 192, "Height of the stored posters, pixels.", lower_bound=_LEAST_SIDE, upper_bound=4096)
_WIDTH = flags.DEFINE_integer("width", 128, "Width of the stored posters, pixels.", lower_bound=_LEAST_SIDE, upper_bound=4096)
_ENCODING = flags.DEFINE_enum(
    "encoding", "jpeg", manifest.ENCODINGS, "How posters are stored; raw takes more space and needs no decoding."
)
_ID_COLUMN = flags.DEFINE_string("id_column", None, "The column of the films' ids; by default found.")
_GENRES_COLUMN = flags.DEFINE_string("genres_column", None, "The column of lists of genres; by default found.")
_IMAGE_COLUMN = flags.DEFINE_string("image_column", None, "The column of the posters' names, paths or URLs; by default found.")
_LABEL_COLUMNS = flags.DEFINE_list(
    "label_columns", [], "The columns of 0 and 1, one a genre; by default found. Without a header: the genres' names."
)
_SPLIT_COLUMN = flags.DEFINE_string(
    "split_column", None, "The column of train, validation or test; by default 80, 10 and 10 % by a hash of the id."
)
_MIN_EXAMPLES = flags.DEFINE_integer("min_examples", 1, "Genres with fewer films are left out.", lower_bound=1)
_SHARDS = flags.DEFINE_integer(
    "shards", None, "Training shards; by default a multiple of 16, of 100 MB each at most.", lower_bound=1
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Keeps fetched posters; by default in the user's cache folder.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a finished data set.")


def main(arguments: Sequence[str]) -> None:
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag: see --help")
    signal.signal(signal.SIGTERM, _stop)
    output = files.from_flag("--output", _OUTPUT.value)
    films = catalog.read(
        _CSV.value,
        columns.Columns(
            id=_ID_COLUMN.value,
            genres=_GENRES_COLUMN.value,
            image=_IMAGE_COLUMN.value,
            labels=tuple(_LABEL_COLUMNS.value),
            split=_SPLIT_COLUMN.value,
        ),
    )
    print(f"{urls.shown(_CSV.value)}: {films.rows:,} rows, {films.layout}", file=sys.stderr)
    settings = build.Settings(_HEIGHT.value, _WIDTH.value, _ENCODING.value, _MIN_EXAMPLES.value, _SHARDS.value)
    cache_dir = _local("--cache_dir", _CACHE_DIR.value) if _CACHE_DIR.value else web.default_cache_dir()
    with publishing.published(output, overwrite=_OVERWRITE.value) as place:
        dataset, rejected, duplicates = build.build(films, place, settings, images=_IMAGES.value, cache_dir=cache_dir)
        rejects.write(rejected, place.folder / staging.REJECTS_FILE)
        near_duplicates.write(duplicates, place.folder / near_duplicates.FILE)
        (place.folder / manifest.DATASET_FILE).write_text(manifest.to_text(dataset), encoding="utf-8")
    print(_summary(films.rows, dataset, rejected, duplicates))
    for name, split in dataset.splits.items():
        if not split.examples:
            print(f"warning: the split {name!r} has no example: prepare more films", file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped("asked to stop by SIGTERM; nothing is half-written, and the same command begins again")


def _local(flag: str, value: str) -> Path:
    if "://" in value:
        raise UserError(f"{flag}={urls.shown(value)}: name a local folder")
    return Path(epath.Path(value).expanduser())  # pathlib's own fails on `~` and the name of no user.


def _summary(rows: int, dataset: Dataset, rejected: Sequence[Reject], duplicates: Sequence[NearDuplicate]) -> str:
    """Returns the tables of rows, which add up to the CSV's, of genres, and of posters that occur in two splits."""
    by_reason = Counter(reject.reason.value for reject in rejected)
    rows_table = [
        ("rows read", f"{rows:,}"),
        *((f"  examples in {name}", f"{split.examples:,}") for name, split in dataset.splits.items()),
        *((f"  rejected: {reason}", f"{count:,}") for reason, count in sorted(by_reason.items())),
    ]
    genres_table = [("films with genre", *dataset.splits, "all")]
    for genre in dataset.genres:
        counts = [split.genre_counts[genre] for split in dataset.splits.values()]
        genres_table.append((genre, *(f"{count:,}" for count in (*counts, sum(counts)))))
    in_both = near_duplicates.counts(duplicates)
    duplicates_table = [
        (f"posters of {split} that also occur in {other}", f"{in_both[split, other]:,}")
        for split, other in (("test", "train"), ("test", "validation"), ("validation", "train"))
    ]
    return "\n\n".join(tables.aligned(table) for table in (rows_table, genres_table, duplicates_table))


if __name__ == "__main__":
    entry.run(main)
