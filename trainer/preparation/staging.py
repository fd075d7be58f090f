"""Replaces a data set on a disk as a whole: a folder that holds a dataset.json is complete, wherever a run was interrupted."""

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
from trainer.preparation import preview

REJECTS_FILE = "rejects.csv"
OTHER_FILES = frozenset({REJECTS_FILE, near_duplicates.FILE, preview.FILE})  # Besides the shards and dataset.json.

_STAGE = ".incomplete"
_PLAN = "publishing.json"

# The errors of flock on file systems without locks, such as some mounted buckets.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def staged(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Provides an empty folder for a new data set, and moves its content to `output` when the block ends without an error.

    The folder lies in `output`, so that its files are moved and not copied. If the block fails, the folder is removed. If the
    process is killed, the next run removes the folder and the files already moved. Other files in `output` stay as they are.

    Args:
      output: the data set's folder; it is created if it does not exist.
      overwrite: whether a finished data set in `output` may be replaced.

    Yields:
      The empty folder, for the shards, the `OTHER_FILES` and dataset.json.

    Raises:
      UserError: `output` holds a finished data set, is not a folder, is in use by another process, or holds other files with the
        names of the new ones; or an unfinished run left something there that this program does not write.
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
                error.filename = str(output)  # For the user's error message: a failed write carries no file name.
            _clear(output)
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder; the lock ends with the process and leaves no file."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output={folder} is in use by another process of trainer.prepare: wait for it or end it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: --output={folder} is on a file system without locks: make sure that no other process writes there",
                file=sys.stderr,
            )
        yield
    finally:
        os.close(handle)


def _publish(output: Path, stage: Path) -> None:
    new = sorted(path.name for path in stage.iterdir() if path.name != DATASET_FILE)
    finished = output / DATASET_FILE
    old = (
        [*manifest.listed_files(finished.read_bytes(), (path.name for path in output.iterdir())), *OTHER_FILES]
        if finished.exists()
        else []
    )
    foreign = [name for name in new if name not in old and (output / name).exists()]
    if foreign:
        raise UserError(f"--output={output} holds {foreign[0]}, which no dataset.json there lists: choose another folder")
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
    """Removes the stage that an unfinished run left and, if that run had begun to publish, the files that it was changing."""
    stage = output / _STAGE
    if stage.is_symlink() or (stage.exists() and not stage.is_dir()):
        raise UserError(f"{stage} is not the folder of an unfinished run: remove it or choose another --output")
    if (stage / _PLAN).exists() and not (output / DATASET_FILE).exists():
        for name in _planned(stage / _PLAN):
            (output / name).unlink(missing_ok=True)
    if stage.exists():
        shutil.rmtree(stage)


def _planned(plan: Path) -> list[str]:
    """Reads the names of the files that a run was changing; refuses other names, such as a path that leads out of the folder."""
    try:
        names = json.loads(plan.read_text())
    except (ValueError, RecursionError):
        names = None
    if isinstance(names, list) and all(
        isinstance(name, str) and (name in OTHER_FILES or manifest.is_shard(name)) for name in names
    ):
        return names
    raise UserError(f"{plan} is damaged: remove {plan.parent} and the shards beside it, or choose another --output")
