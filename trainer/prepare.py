"""Makes a data set of TFRecord shards from a CSV of films and their posters.

    python -m trainer.prepare --csv=films.csv --images=posters/ --output=dataset/
    python -m trainer.prepare --csv=gs://bucket/films.csv --images=gs://bucket/posters.zip --output=gs://bucket/dataset

Every row of the CSV becomes an example or a line of rejects.csv that gives the reason. The same input gives the same bytes.
"""

import contextlib
import gc
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import flags
from etils import epath

from trainer.catalog import catalog, columns, image_tree
from trainer.catalog.catalog import Catalog
from trainer.dataset import manifest, near_duplicates, rejects
from trainer.dataset.manifest import Dataset
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.dataset.rejects import Reject
from trainer.errors import Stopped, UserError, brief
from trainer.preparation import build, explanation, matching, preview, publishing, staging
from trainer.preparation.matching import Matched
from trainer.process import entry, tables
from trainer.sources import folders, web
from trainer.sources.lookup import ImageFinder
from trainer.storage import files, urls

_MIN_SIDE = 32  # The networks halve an image up to four times; at least 2 × 2 cells must be left.

_CSV = flags.DEFINE_string(
    "csv",
    None,
    "The CSV, one or more rows per film: a local path, gs://… or a URL. Its encoding, delimiter and columns are detected, and "
    "printed before the work starts. Without it, the name of the folder that an image is in is its genre.",
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "The folder or zip archive of the posters: a local path, gs://… or a URL. Not needed if the CSV gives a URL for every poster.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The folder for the data set: a local path or gs://…. It is created if it does not exist."
)
_HEIGHT = flags.DEFINE_integer(
    "height", 192, "The height, in pixels, to which every poster is resized.", lower_bound=_MIN_SIDE, upper_bound=4096
)
_WIDTH = flags.DEFINE_integer(
    "width", 128, "The width, in pixels, to which every poster is resized.", lower_bound=_MIN_SIDE, upper_bound=4096
)
_ENCODING = flags.DEFINE_enum(
    "encoding",
    "jpeg",
    manifest.ENCODINGS,
    "How posters are stored. jpeg takes less space; raw stores the pixels, which training need not decode.",
)
_ID_COLUMN = flags.DEFINE_string("id_column", None, "The name of the column that holds the films' ids. Detected by default.")
_GENRES_COLUMN = flags.DEFINE_string(
    "genres_column", None, "The name of the column that lists the genres of each film. Detected by default."
)
_GENRE_SEPARATOR = flags.DEFINE_string(
    "genre_separator",
    None,
    "The text between two genres in a cell, such as / or |; none if a cell holds one genre, whatever is in it. Detected by "
    "default.",
)
_IMAGE_COLUMN = flags.DEFINE_string(
    "image_column", None, "The name of the column that holds the posters' file names, paths or URLs. Detected by default."
)
_LABEL_COLUMNS = flags.DEFINE_list(
    "label_columns",
    [],
    "Instead of --genres_column: the names of the columns of 0 and 1, one column per genre, separated by commas. Detected by "
    "default. For a CSV without a header: the genres of these columns, in their order.",
)
_SPLIT_COLUMN = flags.DEFINE_string(
    "split_column",
    None,
    "The name of the column that says train, validation or test. By default, a hash of the film's id assigns 80 % of the films to "
    "train, 10 % to validation and 10 % to test.",
)
_MIN_EXAMPLES = flags.DEFINE_integer("min_examples", 1, "Leave out the genres that fewer films than this have.", lower_bound=1)
_SHARDS = flags.DEFINE_integer(
    "shards", None, "The number of training shards. By default a multiple of 16, with at most 100 MB per shard.", lower_bound=1
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "The local folder that keeps the posters fetched from the web, so that the next run does not fetch them again. By default a "
    "folder in the user's cache ($XDG_CACHE_HOME or ~/.cache).",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say how the CSV was understood, and the first films with their images and genres. Write nothing."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the finished data set in --output, if there is one.")


def main(arguments: Sequence[str]) -> None:
    """Prepares the data set that the flags describe."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag of trainer.prepare: write options as --name=value")
    signal.signal(signal.SIGTERM, _stop)
    if not _CSV.value and not _IMAGES.value:
        raise UserError("--csv and --images are missing: name the CSV of the films, --csv=FILE, and the folder of their images")
    if not _OUTPUT.value and not _DRY_RUN.value:
        raise UserError("--output is missing: name the folder for the data set, --output=FOLDER, or add --dry_run")
    output = files.from_flag("--output", _OUTPUT.value) if _OUTPUT.value else None
    cache_dir = _local_folder("--cache_dir", _CACHE_DIR.value) if _CACHE_DIR.value else web.default_cache_dir()
    settings = build.Settings(_HEIGHT.value, _WIDTH.value, _ENCODING.value, _MIN_EXAMPLES.value, _SHARDS.value)
    finder = folders.open_images(_IMAGES.value) if _IMAGES.value else None
    with _without_garbage_collection():
        films = _films(finder)
        matched = matching.match(films.films, finder)
    _say(films, matched, finder, settings)
    if _DRY_RUN.value or output is None:
        print("\n".join(["The first films:", *explanation.first_films(matched)]))
        return
    rows, rejects_of_rows = films.rows, films.rejects
    del films  # A CSV may have millions of rows.
    with publishing.published(output, overwrite=_OVERWRITE.value) as destination:
        dataset, rejected, duplicates = build.build(matched, rejects_of_rows, destination, settings, cache_dir=cache_dir)
        rejects.write(rejected, destination.folder / staging.REJECTS_FILE)
        near_duplicates.write(duplicates, destination.folder / near_duplicates.FILE)
        (destination.folder / manifest.DATASET_FILE).write_text(manifest.to_text(dataset), encoding="utf-8")
    print(_tables(rows, dataset, rejected, duplicates))
    print(f"\n{_conclusion(output, rows, dataset, rejected)}")
    for name, split in dataset.splits.items():
        if not split.examples:
            print(f"warning: the split {name!r} has no example: prepare more films", file=sys.stderr)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Does not look for cycles among the objects of a CSV: there are none, and with a million rows it takes half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _films(finder: ImageFinder | None) -> Catalog:
    """Returns the films of the CSV, or of the folder of images if there is no CSV."""
    if not _CSV.value:
        assert finder is not None
        return image_tree.read(finder)
    requested = columns.Columns(
        id=_ID_COLUMN.value,
        genres=_GENRES_COLUMN.value,
        image=_IMAGE_COLUMN.value,
        labels=tuple(_LABEL_COLUMNS.value),
        split=_SPLIT_COLUMN.value,
        separator=_GENRE_SEPARATOR.value,
    )
    return catalog.read(_CSV.value, requested, finder)


def _say(films: Catalog, matched: Matched, finder: ImageFinder | None, settings: build.Settings) -> None:
    """Says how the CSV was understood, and how the posters will be stored."""
    lines = explanation.understood(urls.shown(_CSV.value or _IMAGES.value), films, matched, finder)
    lines.append(
        f"  posters: resized to {settings.height} × {settings.width} pixels (height × width), stored as {settings.encoding}"
    )
    lines += [f"warning: {warning}" for warning in explanation.warnings(films, matched, finder)]
    print("\n".join(lines), file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped("SIGTERM received; no half-written data set is left, and the same command starts again")


def _local_folder(flag: str, value: str) -> Path:
    if "://" in value:
        raise UserError(f"{flag}={urls.shown(value)} is not on a local disk: name a local folder")
    return Path(epath.Path(value).expanduser())  # Path.expanduser fails on `~NAME` if there is no such user.


def _tables(rows: int, dataset: Dataset, rejected: Sequence[Reject], duplicates: Sequence[NearDuplicate]) -> str:
    """Returns the tables of rows (which add up to the CSV's rows), of genres, and of posters that occur in two splits."""
    rows_table = [
        ("rows read", f"{rows:,}"),
        *((f"  examples in {name}", f"{split.examples:,}") for name, split in dataset.splits.items()),
        *((f"  rejected: {reason}", f"{len(of_reason):,}") for reason, of_reason in _by_reason(rejected).items()),
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


def _conclusion(output: epath.Path, rows: int, dataset: Dataset, rejected: Sequence[Reject]) -> str:
    """Says which rows were rejected, and where the data set and its preview are."""
    lines = []
    if rejected:
        lines.append(
            f"Rejected {len(rejected):,} of {rows:,} rows; {output / staging.REJECTS_FILE} gives the reason for each. Examples:"
        )
        first_of = {reason: min(of_reason, key=lambda reject: reject.row) for reason, of_reason in _by_reason(rejected).items()}
        lines.append(_listing({reason: f"row {first.row}: {brief(first.detail)}" for reason, first in first_of.items()}))
    examples = sum(split.examples for split in dataset.splits.values())
    lines.append(f"The data set is in {output}: {examples:,} films, {len(dataset.genres):,} genres.")
    lines.append(f"See whether images and genres fit their films: {output / preview.FILE}")
    return "\n".join(lines)


def _by_reason(rejected: Sequence[Reject]) -> dict[str, list[Reject]]:
    by_reason: dict[str, list[Reject]] = {}
    for reject in sorted(rejected, key=lambda reject: reject.reason.value):
        by_reason.setdefault(reject.reason.value, []).append(reject)
    return by_reason


def _listing(entries: Mapping[str, str]) -> str:
    width = max(map(len, entries))
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in entries.items())


if __name__ == "__main__":
    entry.run(main)
