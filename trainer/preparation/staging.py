"""Replacing a data set as a whole: whatever happens on the way, a folder with a dataset.json is a whole data set."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.dataset import manifest, near_duplicates
from trainer.dataset.manifest import DATASET_FILE
from trainer.errors import UserError

REJECTS_FILE = "rejects.csv"
TABLES = frozenset({REJECTS_FILE, near_duplicates.FILE})  # What a data set has beside its shards and dataset.json.

_STAGE = ".incomplete"
_PLAN = "publishing.json"

# What the file systems of some mounted buckets say to flock.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def staged(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Lends a folder to build a data set in, and makes what is in it the data set of `output` when the block ends well.

    The folder lies in `output`, so that nothing is copied. When the block fails it is removed; when the process is killed the next
    run removes it, and what of it had been published. Other files in `output` are left alone.

    Args:
      output: the data set's folder; made if need be.
      overwrite: whether a finished data set there may be replaced.

    Yields:
      An empty folder, for the shards, the `TABLES` and dataset.json.

    Raises:
      UserError: there is a finished data set, another process is writing to the folder, the folder cannot be one, or other files
        there have the names of the new ones; or what an unfinished run has left there is not what this program leaves.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output={output} is not a folder: choose another one") from None
    with _locked(output):
        _clear(output)
        if (output / DATASET_FILE).exists() and not overwrite:
            raise UserError(f"--output={output} holds a finished data set: add --overwrite to replace it, or choose another folder")
        stage = output / _STAGE
        stage.mkdir()
        try:
            yield stage
            _publish(output, stage)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(output)  # For the line that the user reads; writes to open files do not know their names.
            _clear(output)
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock that ends with the process and leaves no file."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output={folder}: another process prepares a data set there: wait for it or end it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(f"warning: --output={folder} has no locks: see that no other process prepares a data set there", file=sys.stderr)
        yield
    finally:
        os.close(handle)


def _publish(output: Path, stage: Path) -> None:
    new = sorted(path.name for path in stage.iterdir() if path.name != DATASET_FILE)
    finished = output / DATASET_FILE
    old = (
        [*manifest.listed_files(finished.read_bytes(), (path.name for path in output.iterdir())), *TABLES]
        if finished.exists()
        else []
    )
    foreign = [name for name in new if name not in old and (output / name).exists()]
    if foreign:
        raise UserError(f"--output={output} holds {foreign[0]}, which belongs to no data set there: choose another folder")
    partial = stage / f"{_PLAN}.partial"
    partial.write_text(json.dumps(sorted({*old, *new})))
    partial.replace(stage / _PLAN)
    finished.unlink(missing_ok=True)
    for name in old:
        (output / name).unlink(missing_ok=True)
    for name in new:
        (stage / name).replace(output / name)
    (stage / DATASET_FILE).replace(finished)
    shutil.rmtree(stage)


def _clear(output: Path) -> None:
    """Removes what an unfinished run has left: its stage and, if it had begun to publish, the files that were to change."""
    stage = output / _STAGE
    if stage.is_symlink() or (stage.exists() and not stage.is_dir()):
        raise UserError(f"{stage} is not the folder of an unfinished run: remove it or choose another --output")
    if (stage / _PLAN).exists() and not (output / DATASET_FILE).exists():
        for name in _planned(stage / _PLAN):
            (output / name).unlink(missing_ok=True)
    if stage.exists():
        shutil.rmtree(stage)


def _planned(plan: Path) -> list[str]:
    """Reads the names of the files that were to change; what is no name of ours, a path out of the folder say, is not acted on."""
    try:
        names = json.loads(plan.read_text())
    except (ValueError, RecursionError):
        names = None
    if isinstance(names, list) and all(isinstance(name, str) and (name in TABLES or manifest.is_shard(name)) for name in names):
        return names
    raise UserError(f"{plan} is damaged: remove {plan.parent} and the shards beside it, or choose another --output")
