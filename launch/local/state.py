"""What is kept of each job of this machine, so that another terminal can look after it: a folder a job, by its name.

    NAME/lock        locked (flock) by the launcher as long as it runs, so that one that was killed is not taken for a running one
    NAME/state.json  how the job and its workers are
    NAME/log         what the launcher has printed

They are below $XDG_STATE_HOME/poster-trainer, by default ~/.local/state/poster-trainer, and the user's alone to read.
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

_MOST_ENDED = 20  # Jobs that have ended are kept up to this many.
_LARGEST_LOG = 256 << 20  # Bytes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """How a job is.

    Attributes:
      name: of this launch of it.
      pid: of its launcher.
      machine: where that number means something: the host, since its start, and the container.
      started: seconds since the epoch.
      word: running, done, failed or stopped; lost where the launcher was killed.
      reason: why it ended so, or "".
      workers: how each is.
    """

    name: str
    pid: int
    machine: str
    started: float
    word: str
    reason: str
    workers: tuple[WorkerState, ...]


@contextlib.contextmanager
def kept(name: str, workers: int) -> Iterator["Keeper | None"]:
    """Keeps the state of a job for the time of a `with` block, and then how the block ended.

    It gives None, after a note, where nothing can be kept: the job is worth more than a look at it.

    Args:
      name: of this launch of it.
      workers: how many it has.
    """
    try:
        keeper = Keeper(name, workers)
    except OSError as error:
        tell(f"{error.filename or _root()}: {error.strerror}: no other terminal can look after this job")
        yield None
        return
    word, reason = "failed", "the launcher failed"
    try:
        yield keeper
        word, reason = "done", ""
    except Stopped as end:
        word, reason = "stopped", str(end)
        raise
    except Ended as end:
        reason = str(end)
        raise
    finally:
        keeper.end(word, reason)


class Keeper:
    """Writes down how a job goes on; a full disk has it miss something, and the job go on."""

    def __init__(self, name: str, workers: int) -> None:
        """Begins the folder of a job, and takes older ones away.

        Raises:
          OSError: it cannot be written.
        """
        _forget_old()
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
        self._state = State(
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
        """Takes a part of the job's log."""
        room = _LARGEST_LOG - self._log_size
        with contextlib.suppress(OSError):
            self._log_size += self._log.write(data[: max(0, room)])
            if 0 <= room < len(data):
                self._log_size += self._log.write(b"\nlaunch: no more of the log is kept\n")

    def on_change(self, workers: Sequence[WorkerState]) -> None:
        """Takes how each worker is."""
        self._keep(workers=tuple(workers))

    def end(self, word: str, reason: str) -> None:
        """Takes how the job has ended."""
        if not self._keep(word=word, reason=" ".join(reason.split())):
            # A full disk: how the job ended is worth more than its log.
            with contextlib.suppress(OSError):
                self._log.truncate(0)
            self._keep()
        self._log.close()
        self._lock.close()

    def _keep(self, **changes: Any) -> bool:
        """Changes the state; returns whether it could be written."""
        self._state = dataclasses.replace(self._state, **changes)
        try:
            self._write()
        except OSError:
            return False
        return True

    def _write(self) -> None:
        new = self._folder / "state.new"
        new.write_text(json.dumps(dataclasses.asdict(self._state)))
        new.replace(self._folder / "state.json")


def read(name: str) -> State:
    """How a job is.

    Raises:
      UserError: there is none of this name.
    """
    known = {state.name: state for state in read_all()}
    if name not in known:
        raise UserError(f"{name!r} is no job of this machine that is known: python -m launch list --target=local names them")
    return known[name]


def read_all() -> list[State]:
    """How each job is that is known, the newest last."""
    try:
        found = [_read(folder) for folder in _root().iterdir()]
    except OSError:
        return []
    return sorted((state for state in found if state), key=lambda state: state.started)


def log_path(name: str) -> Path:
    """Where the log of a job is."""
    return _root() / name / "log"


def is_running(name: str) -> bool:
    """Whether the launcher of a job runs."""
    try:
        with (_root() / name / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _root() -> Path:
    # The XDG base directory specification: a relative path there is to be ignored.
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state") / "poster-trainer"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, str(error), "~") from None


def _read(folder: Path) -> State | None:
    runs = is_running(folder.name)  # Before the state is read: a launcher says last how it ends.
    try:
        found = json.loads((folder / "state.json").read_bytes())
        workers = tuple(WorkerState(**worker) for worker in found["workers"])
        state = State(**{**found, "started": float(found["started"]), "workers": workers})
    except (OSError, ValueError, TypeError, KeyError):  # It is just being made or taken away, or is of another release.
        return None
    if state.word == "running" and not runs:
        workers = tuple(dataclasses.replace(worker, word="ended", pid=None) for worker in state.workers)
        return dataclasses.replace(state, word="lost", reason="its launcher was killed", workers=workers)
    return state


def machine() -> str:
    """Names this machine since its start, and the container in which this process is."""
    host = socket.gethostname()
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host} {boot} {Path('/proc/self/ns/pid').readlink()}"
    return host


def _last_change(state: State) -> float:
    try:
        return (_root() / state.name / "state.json").stat().st_mtime
    except OSError:
        return 0.0


def _forget_old() -> None:
    ended = sorted((state for state in read_all() if state.word != "running"), key=_last_change)
    for state in ended[: max(0, len(ended) - _MOST_ENDED)]:
        shutil.rmtree(_root() / state.name, ignore_errors=True)
