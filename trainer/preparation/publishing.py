"""A data set's way to Cloud Storage: shards leave the disk as soon as they are written, and dataset.json, the last, makes it whole.

While a run is at work, and after it was killed or is to be started again, an object `.preparing.json` is in the folder: what else
is there without a dataset.json is the run's own, and the next run goes on from it.
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

_UPLOADS = 8  # At a time; so many shards wait on the disk.

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def published(output: epath.Path, *, overwrite: bool) -> Iterator[Output]:
    """Lends a place to build a data set in, and makes what is in it the data set of `output` when the block ends well.

    Args:
      output: the data set's folder, local or on Cloud Storage; made if need be.
      overwrite: whether a finished data set there may be replaced.

    Yields:
      Where to put the shards, and then `staging.TABLES` and dataset.json.

    Raises:
      UserError: there is a finished data set, another process is writing to the folder, or it cannot be one.
      LostPeer: the folder has gone to another run.
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
    """The stage of a local folder, where files stay as they are."""

    folder: Path
    verb = "writing"

    def add(self, shard: Shard) -> None:
        pass


@contextlib.contextmanager
def _uploaded(uri: str, *, overwrite: bool) -> Iterator["_Bucket"]:
    mark = epath.Path(f"{uri}/{LOCK_FILE}")
    with _only_one_of_this_host(uri):
        # A run that is refused leaves no trace, and a lock that it left would make foreign files its own.
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
    """What of a data set is in a folder of a bucket.

    Attributes:
      files: the shards and `staging.TABLES`, by their names.
      listed: those of them that a dataset.json lists, None where there is none.
    """

    def __init__(self, files: Mapping[str, Object], listed: frozenset[str] | None) -> None:
        self.files, self.listed = files, listed

    @classmethod
    def of(cls, uri: str) -> "_Contents":
        found = {item.uri.removeprefix(f"{uri}/"): item for item in objects.below(uri, deep=False)}
        files = {name: item for name, item in found.items() if manifest.is_shard(name) or name in staging.TABLES}
        if DATASET_FILE not in found:
            return cls(files, None)
        listed = manifest.listed_files(objects.read(f"{uri}/{DATASET_FILE}"), files)
        return cls(files, staging.TABLES.union(listed))


def _refuse(uri: str, contents: _Contents, *, overwrite: bool, was_killed: bool = False) -> None:
    if contents.listed is not None and not overwrite:
        raise UserError(f"--output={uri} holds a finished data set: add --overwrite to replace it, or choose another folder")
    foreign = sorted(contents.files.keys() - (contents.listed or ()))
    if foreign and not was_killed:
        raise UserError(f"--output={uri} holds {foreign[0]}, which belongs to no data set there: choose another folder")


class _Bucket:
    """A folder of a bucket that becomes a data set.

    Attributes:
      folder: on a disk, from which the shards disappear one by one.
    """

    verb = "writing and uploading"

    def __init__(self, uri: str, folder: Path, held: lock.Lock, contents: _Contents) -> None:
        self.folder = folder
        self._uri, self._lock, self._there = uri, held, dict(contents.files)
        self._is_whole = contents.listed is not None  # Whether a dataset.json is there.
        self._shards: dict[str, Shard] = {}
        self._pool = ThreadPoolExecutor(_UPLOADS)
        self._under_way: deque[Future[None]] = deque()

    def add(self, shard: Shard) -> None:
        """Uploads a shard in the background, unless it is there already."""
        self._shards[shard.name] = shard
        if _is_same(self._there.get(shard.name), shard):
            (self.folder / shard.name).unlink()
            return
        self._make_incomplete()
        if len(self._under_way) >= _UPLOADS:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(self._upload, shard))

    def finish(self) -> None:
        """Waits for the shards, removes what is left of others and writes the tables and dataset.json."""
        self._make_incomplete()
        while self._under_way:
            self._under_way.popleft().result()
        self._lock.check()
        for name in sorted(staging.TABLES):
            objects.write(f"{self._uri}/{name}", (self.folder / name).read_bytes())
        self._remove(self._there.keys() - self._shards.keys() - staging.TABLES)
        arrived = _Contents.of(self._uri).files
        for shard in self._shards.values():
            if not _is_same(arrived.get(shard.name), shard):
                raise LostService(f"{self._uri}/{shard.name} did not arrive as it was written: run the same command again")
        self._lock.check()
        objects.write(f"{self._uri}/{DATASET_FILE}", (self.folder / DATASET_FILE).read_bytes())
        self._is_whole = True

    def abandon(self, error: BaseException) -> None:
        """Ends a run that has failed.

        What it and those before it have uploaded is left to the next run where the exit code asks for one, and removed otherwise. A
        data set that it has not touched stays.
        """
        if self._is_whole:
            return
        try:
            self._pool.shutdown(cancel_futures=True)
            if _asks_for_another_try(error):
                self._lock.leave()
                return
            self._lock.check()
            # First, so that there is no moment with a dataset.json and too few shards.
            objects.remove(f"{self._uri}/{DATASET_FILE}")
            self._remove({*self._there, *self._shards, *staging.TABLES})
        except LostPeer:
            return  # Another run goes on from here.
        except BaseException as failure:
            self._lock.leave()
            if not isinstance(failure, Ended):
                raise
            _log.warning("%s: unfinished files are left there, for the next run to remove: %s", self._uri, failure)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _make_incomplete(self) -> None:
        if self._is_whole:
            self._lock.check()
            self._is_whole = False
            objects.remove(f"{self._uri}/{DATASET_FILE}")

    def _upload(self, shard: Shard) -> None:
        self._lock.check()
        file = self.folder / shard.name
        arrived = objects.upload(file, f"{self._uri}/{shard.name}")
        if not _is_same(arrived, shard):
            raise LostService(f"{arrived.uri} did not arrive as it was written: run the same command again")
        file.unlink()

    def _remove(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(_UPLOADS) as pool:
            for removed in [pool.submit(objects.remove, f"{self._uri}/{name}") for name in sorted(names)]:
                removed.result()


def _asks_for_another_try(error: BaseException) -> bool:
    """Whether the command ends with an exit code after which it is started again."""
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
    """Keeps two runs of one user of this host apart, which are one to `.preparing.json`; ends with the process."""
    # Not in the home folder: a container may have none that can be written. Others may have put a link in this one.
    path = Path(tempfile.gettempdir()) / f"poster-trainer-{os.getuid()}-{_key(uri)}.lock"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output={uri}: another process prepares a data set there: wait for it or end it") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(uri: str) -> Iterator[Path]:
    """Lends a folder on a disk, and removes that of a run that was killed."""
    prefix = f"poster-trainer-{_key(f'{_this_user()} {uri}')}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)
