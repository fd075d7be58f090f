"""The recorded state of each job of this machine, by which other terminals show and cancel it: one folder for each job.

    NAME/lock        locked (flock) by the launcher while it runs, so that a killed launcher does not count as running
    NAME/state.json  the state of the job and its workers
    NAME/log         the launcher's output

The folders are in $XDG_STATE_HOME/poster-trainer, by default ~/.local/state/poster-trainer; only the user can read them.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.console import tell
from launch.local.processes import WorkerState
from trainer.errors import Ended, Stopped, UserError

_MAX_ENDED = 20  # Ended jobs whose folder is kept.
_MAX_LOG = 256 << 20  # Bytes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobRecord:
    """The content of state.json.

    Attributes:
      name: the name of this launch.
      pid: the launcher's process id.
      machine: the machine and container in which `pid` is valid, as `machine()` returns it.
      started: when the job started, in seconds since the epoch.
      word: running, done, failed or stopped; lost if the launcher was killed.
      reason: why the job failed or stopped, or "".
      workers: the state of each worker.
    """

    name: str
    pid: int
    machine: str
    started: float
    word: str
    reason: str
    workers: tuple[WorkerState, ...]


@contextlib.contextmanager
def recording(name: str, workers: int) -> Iterator["Recorder | None"]:
    """Records the state of a job during a `with` block, and at its end how the job ended.

    Yields None, after a warning, if the folder cannot be written: the job then runs without a record.

    Args:
      name: the name of this launch.
      workers: the number of workers.
    """
    try:
        recorder = Recorder(name, workers)
    except OSError as error:
        tell(f"{error.filename or _root()} cannot be written ({error.strerror}): other terminals cannot show or cancel this job")
        yield None
        return
    word, reason = "failed", "the launcher failed"
    try:
        yield recorder
        word, reason = "done", ""
    except Stopped as end:
        word, reason = "stopped", str(end)
        raise
    except Ended as end:
        reason = str(end)
        raise
    finally:
        recorder.end(word, reason)


class Recorder:
    """Records the state and the log of a job; if the disk is full, the record has gaps and the job goes on."""

    def __init__(self, name: str, workers: int) -> None:
        """Creates the folder of a job, and deletes the oldest folders of ended jobs.

        Args:
          name: the name of this launch.
          workers: the number of workers.

        Raises:
          OSError: the folder cannot be written.
        """
        _delete_old()
        self._folder = _root() / name
        self._folder.mkdir(parents=True, mode=0o700)
        try:
            self._begin(name, workers)
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _begin(self, name: str, workers: int) -> None:
        self._lock = (self._folder / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._log = (self._folder / "log").open("wb", buffering=0)
        self._log_size = 0
        starting = WorkerState(word="waiting", pid=None, exit_code=None, crashes=0)
        self._record = JobRecord(
            name=name,
            pid=os.getpid(),
            machine=machine(),
            started=time.time(),
            word="running",
            reason="",
            workers=(starting,) * workers,
        )
        self._write()

    def on_output(self, data: bytes) -> None:
        """Appends lines to the recorded log."""
        room = _MAX_LOG - self._log_size
        with contextlib.suppress(OSError):
            self._log_size += self._log.write(data[: max(0, room)])
            if 0 <= room < len(data):
                self._log_size += self._log.write(b"\nlaunch: the log is too long: the rest is not recorded\n")

    def on_change(self, workers: Sequence[WorkerState]) -> None:
        """Records the state of each worker."""
        self._update(workers=tuple(workers))

    def end(self, word: str, reason: str) -> None:
        """Records how the job ended.

        Args:
          word: done, failed or stopped.
          reason: why, or "".
        """
        if not self._update(word=word, reason=" ".join(reason.split())):
            # The disk is full: delete the log to record how the job ended.
            with contextlib.suppress(OSError):
                self._log.truncate(0)
            self._update()
        self._log.close()
        self._lock.close()

    def _update(self, **changes: Any) -> bool:
        """Changes fields of the record; returns whether it could be written."""
        self._record = dataclasses.replace(self._record, **changes)
        try:
            self._write()
        except OSError:
            return False
        return True

    def _write(self) -> None:
        new = self._folder / "state.new"
        new.write_text(json.dumps(dataclasses.asdict(self._record)))
        new.replace(self._folder / "state.json")


def read(name: str) -> JobRecord:
    """Returns the record of a job.

    Args:
      name: the job's name.

    Raises:
      UserError: no such job is recorded.
    """
    known = {record.name: record for record in read_all()}
    if name not in known:
        raise UserError(f"job {name!r} is not recorded on this machine: choose one of python -m launch list --target=local")
    return known[name]


def read_all() -> list[JobRecord]:
    """Returns the records of all jobs, the newest last."""
    try:
        found = [_read(folder) for folder in _root().iterdir()]
    except OSError:
        return []
    return sorted((record for record in found if record), key=lambda record: record.started)


def log_path(name: str) -> Path:
    """Returns the path of a job's recorded log."""
    return _root() / name / "log"


def is_running(name: str) -> bool:
    """Returns whether the launcher of a job is running."""
    try:
        with (_root() / name / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _root() -> Path:
    # The XDG base directory specification demands that a relative path is ignored.
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state") / "poster-trainer"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, str(error), "~") from None


def _read(folder: Path) -> JobRecord | None:
    running = is_running(folder.name)  # Before state.json is read, because a launcher writes it last, just before it ends.
    try:
        found = json.loads((folder / "state.json").read_bytes())
        workers = tuple(WorkerState(**worker) for worker in found["workers"])
        record = JobRecord(**{**found, "started": float(found["started"]), "workers": workers})
    except (OSError, ValueError, TypeError, KeyError):  # It is being created or deleted, or another release wrote it.
        return None
    if record.word == "running" and not running:
        workers = tuple(dataclasses.replace(worker, word="ended", pid=None) for worker in record.workers)
        return dataclasses.replace(record, word="lost", reason="its launcher was killed", workers=workers)
    return record


def machine() -> str:
    """Returns a name for this machine since its last boot, and for the container of this process."""
    host = socket.gethostname()
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host} {boot} {Path('/proc/self/ns/pid').readlink()}"
    return host


def _last_change(record: JobRecord) -> float:
    try:
        return (_root() / record.name / "state.json").stat().st_mtime
    except OSError:
        return 0.0


def _delete_old() -> None:
    ended = sorted((record for record in read_all() if record.word != "running"), key=_last_change)
    for record in ended[: max(0, len(ended) - _MAX_ENDED)]:
        shutil.rmtree(_root() / record.name, ignore_errors=True)
