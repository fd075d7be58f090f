"""Publishes a data set to a folder on a disk or on Cloud Storage.

On Cloud Storage each shard is uploaded as soon as it is written; dataset.json, written last, completes the data set. An object
`.preparing.json` marks the folder while a run works, and after a run was killed or failed in a way that the next run can repair.
A marked folder without a dataset.json holds only that run's files, and the next run continues with them.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from trainer.dataset import manifest
from trainer.dataset.manifest import DATASET_FILE, Shard
from trainer.errors import TRANSIENT_ERRNOS, Ended, LostPeer, LostService, Stopped, UserError
from trainer.job import lock
from trainer.preparation import staging
from trainer.preparation.output import Output
from trainer.storage import files, objects
from trainer.storage.objects import Object

LOCK_FILE = ".preparing.json"

_UPLOADS_AT_A_TIME = 8  # At most so many shards wait on the disk.

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def published(output: epath.Path, *, overwrite: bool) -> Iterator[Output]:
    """Provides a destination for a new data set, and publishes it in `output` when the block ends without an error.

    Args:
      output: the data set's folder, local or on Cloud Storage; it is created if it does not exist.
      overwrite: whether a finished data set in `output` may be replaced.

    Yields:
      The destination of the shards, and then of the `staging.OTHER_FILES` and dataset.json.

    Raises:
      UserError: `output` holds a finished data set or other files, is not a folder, or is in use by another process.
      LostPeer: another run has taken over the folder.
      LostService: Cloud Storage does not answer.
    """
    if files.in_cloud_storage(output):
        with _uploaded(str(output), overwrite=overwrite) as bucket:
            yield bucket
    else:
        with staging.staged(Path(output), overwrite=overwrite) as stage:
            yield _Disk(stage)


@dataclass(frozen=True)
class _Disk:
    """The stage of a local folder; `staging` moves its files at the end."""

    folder: Path
    verb = "writing"

    def add(self, shard: Shard) -> None:
        pass


@contextlib.contextmanager
def _uploaded(uri: str, *, overwrite: bool) -> Iterator["_Bucket"]:
    mark = epath.Path(f"{uri}/{LOCK_FILE}")
    with _only_one_of_this_host(uri):
        # Checked before the lock is taken: a lock left by a refused run would mark other files in the folder as that run's.
        was_killed = lock.read(mark) is not None
        if not was_killed:
            _refuse(uri, _Contents.of(uri), overwrite=overwrite)
        with lock.held(mark, f"prepare-{_this_user()}", flag="--output") as held, _scratch(uri) as folder:
            contents = _Contents.of(uri)
            _refuse(uri, contents, overwrite=overwrite, was_killed=was_killed)
            bucket = _Bucket(uri, folder, held, contents)
            try:
                yield bucket
                bucket.finish()
            except BaseException as error:
                bucket.abandon(error)
                raise
            finally:
                bucket.close()


class _Contents:
    """The files of a data set that a folder of a bucket holds.

    Attributes:
      files: the shards and the `staging.OTHER_FILES`, by name.
      listed: the names of the files that belong to the dataset.json in the folder; None if it holds no dataset.json.
    """

    def __init__(self, files: Mapping[str, Object], listed: frozenset[str] | None) -> None:
        self.files, self.listed = files, listed

    @classmethod
    def of(cls, uri: str) -> "_Contents":
        """Lists the folder with a URI."""
        found = {item.uri.removeprefix(f"{uri}/"): item for item in objects.below(uri, deep=False)}
        files = {name: item for name, item in found.items() if manifest.is_shard(name) or name in staging.OTHER_FILES}
        if DATASET_FILE not in found:
            return cls(files, None)
        listed = manifest.listed_files(objects.read(f"{uri}/{DATASET_FILE}"), files)
        return cls(files, staging.OTHER_FILES.union(listed))


def _refuse(uri: str, contents: _Contents, *, overwrite: bool, was_killed: bool = False) -> None:
    if contents.listed is not None and not overwrite:
        raise UserError(f"--output={uri} holds a finished data set: add --overwrite to replace it, or choose another folder")
    foreign = sorted(contents.files.keys() - (contents.listed or ()))
    if foreign and not was_killed:
        raise UserError(f"--output={uri} holds {foreign[0]}, which no dataset.json there lists: choose another folder")


class _Bucket:
    """A folder of a bucket that becomes a data set.

    Attributes:
      folder: the folder on a disk into which the shards are written; each one is removed once it is uploaded.
    """

    verb = "writing and uploading"

    def __init__(self, uri: str, folder: Path, held: lock.Lock, contents: _Contents) -> None:
        self.folder = folder
        self._uri, self._lock, self._there = uri, held, dict(contents.files)
        self._is_complete = contents.listed is not None  # Whether the bucket's folder holds a dataset.json.
        self._shards: dict[str, Shard] = {}
        self._pool = ThreadPoolExecutor(_UPLOADS_AT_A_TIME)
        self._uploads: deque[Future[None]] = deque()

    def add(self, shard: Shard) -> None:
        """Uploads a shard in the background, unless the bucket already holds the same one."""
        self._shards[shard.name] = shard
        if _is_same(self._there.get(shard.name), shard):
            (self.folder / shard.name).unlink()
            return
        self._make_incomplete()
        if len(self._uploads) >= _UPLOADS_AT_A_TIME:
            self._uploads.popleft().result()
        self._uploads.append(self._pool.submit(self._upload, shard))

    def finish(self) -> None:
        """Waits for the uploads, writes the tables, removes the files of earlier data sets and writes dataset.json."""
        self._make_incomplete()
        while self._uploads:
            self._uploads.popleft().result()
        self._lock.check()
        for name in sorted(staging.OTHER_FILES):
            objects.write(f"{self._uri}/{name}", (self.folder / name).read_bytes())
        self._remove(self._there.keys() - self._shards.keys() - staging.OTHER_FILES)
        arrived = _Contents.of(self._uri).files
        for shard in self._shards.values():
            if not _is_same(arrived.get(shard.name), shard):
                raise LostService(f"{self._uri}/{shard.name} was lost or damaged in the upload: run the same command again")
        self._lock.check()
        objects.write(f"{self._uri}/{DATASET_FILE}", (self.folder / DATASET_FILE).read_bytes())
        self._is_complete = True

    def abandon(self, error: BaseException) -> None:
        """Ends a run that failed.

        If the exit code asks for another run, the files that this run and earlier ones uploaded stay, and the next run continues
        with them. Otherwise they are removed. A finished data set that this run did not change yet stays.

        Args:
          error: the error that ends the run.
        """
        if self._is_complete:
            return
        try:
            self._pool.shutdown(cancel_futures=True)
            if _asks_for_another_try(error):
                self._lock.leave()
                return
            self._lock.check()
            # dataset.json goes first, so that it never stands beside too few shards.
            objects.remove(f"{self._uri}/{DATASET_FILE}")
            self._remove({*self._there, *self._shards, *staging.OTHER_FILES})
        except LostPeer:
            return  # Another run has taken over the folder.
        except BaseException as failure:
            self._lock.leave()
            if not isinstance(failure, Ended):
                raise
            _log.warning("%s holds unfinished files, which the next run removes: %s", self._uri, failure)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _make_incomplete(self) -> None:
        if self._is_complete:
            self._lock.check()
            self._is_complete = False
            objects.remove(f"{self._uri}/{DATASET_FILE}")

    def _upload(self, shard: Shard) -> None:
        self._lock.check()
        file = self.folder / shard.name
        arrived = objects.upload(file, f"{self._uri}/{shard.name}")
        if not _is_same(arrived, shard):
            raise LostService(f"{arrived.uri} was damaged in the upload: run the same command again")
        file.unlink()

    def _remove(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(_UPLOADS_AT_A_TIME) as pool:
            for removed in [pool.submit(objects.remove, f"{self._uri}/{name}") for name in sorted(names)]:
                removed.result()


def _asks_for_another_try(error: BaseException) -> bool:
    """Returns whether the error's exit code asks for another run of the command."""
    if isinstance(error, OSError):
        return error.errno in TRANSIENT_ERRNOS
    return isinstance(error, LostPeer | LostService | Stopped | KeyboardInterrupt)


def _is_same(found: Object | None, shard: Shard) -> bool:
    return found is not None and (found.size, found.crc32c) == (shard.bytes, shard.crc32c)


def _this_user() -> str:
    return f"{socket.gethostname()}-{os.getuid()}"


def _key(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _only_one_of_this_host(uri: str) -> Iterator[None]:
    """Holds a lock that keeps two runs by one user on this host apart; it ends with the process.

    `.preparing.json` cannot do this: it takes both runs for the same one.
    """
    # A container may have no writable home folder. In the temporary folder other users may have placed a link: O_NOFOLLOW.
    path = Path(tempfile.gettempdir()) / f"poster-trainer-{os.getuid()}-{_key(uri)}.lock"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output={uri} is in use by another process of trainer.prepare: wait for it or end it") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(uri: str) -> Iterator[Path]:
    """Provides a temporary folder on a disk, and removes the folder that a killed run left."""
    prefix = f"poster-trainer-{_key(f'{_this_user()} {uri}')}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)
