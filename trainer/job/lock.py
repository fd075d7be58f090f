"""LOCK.json: one job at a time writes to a job directory."""

import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from trainer.errors import Ended, LostPeer, UserError
from trainer.job import lock_file
from trainer.job.lock_file import LockFile

_log = logging.getLogger(__name__)

_BEAT_SECONDS = 10
_STALE_SECONDS = 60

# A lock that says nothing: its owner was killed between making the file and filling it, or someone has damaged it.
_NOBODY = {"job_id": None, "attempt": 0, "host": "unknown", "pid": 0, "heartbeat": 0.0}


class Lock:
    """Owns a job directory as long as the file says so.

    The file holds `{job_id, attempt, host, pid, heartbeat}`, the heartbeat in seconds since 1970.
    """

    def __init__(self, path: epath.Path, file: LockFile, owner: dict[str, Any]) -> None:
        """Args:
        path: LOCK.json.
        file: the same, taken.
        owner: what was written there.
        """
        self._path, self._file, self._owner = path, file, owner
        # One at a time: the file knows which generation of itself it has seen last.
        self._turn = threading.Lock()
        self._released = threading.Event()
        self._is_left = False
        threading.Thread(target=self._beat, name="lock heartbeat", daemon=True).start()

    def check(self) -> None:
        """To be called before anything is written.

        Raises:
          LostPeer: the directory has gone to another attempt.
        """
        with self._turn:
            if not self._holds():
                raise LostPeer(f"{self._path} has gone to another attempt of this job: this one stops writing")

    def leave(self) -> None:
        """Ends the heartbeat and leaves the file, which tells the next attempt that this one was not done."""
        self._released.set()
        self._is_left = True

    def release(self) -> None:
        """Gives the directory back, unless it was left."""
        self._released.set()
        if self._is_left:
            return
        try:
            with self._turn:
                if self._holds():
                    self._file.remove()
        except (OSError, Ended) as error:
            # It grows old by itself, and why the block ended matters more.
            _log.warning("%s is left behind: %s", self._path, error)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_SECONDS):
            try:
                with self._turn:
                    if self._released.is_set() or not self._holds():
                        return
                    self._file.renew(_content(self._owner | {"heartbeat": time.time()}))
            except (OSError, Ended) as error:
                _log.warning("%s: %s", self._path, error)

    def _holds(self) -> bool:
        return is_same(_parsed(self._file.read()), self._owner)


@contextlib.contextmanager
def held(path: epath.Path, job_id: str, *, flag: str = "--job_dir") -> Iterator[Lock]:
    """Takes a job directory for the time of a `with` block.

    The same job takes over at once: what had the lock is an earlier attempt of it. Another job takes over when the heartbeat
    is a minute old.

    Args:
      path: LOCK.json.
      job_id: names the job, the same for every attempt at it.
      flag: that names the directory, for the user who is to choose another one.

    Raises:
      UserError: another job is at work there.
      LostPeer: another attempt at this job has taken the directory at this moment.
    """
    file = lock_file.at(path)
    attempt = 1
    found = _parsed(file.read())
    if found is not None and found["job_id"] == job_id:
        attempt = found["attempt"] + 1
    else:
        _check_abandoned(found, path, flag)
    owner = {"job_id": job_id, "attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
    if not file.take(_content(owner)):
        other = _parsed(file.read()) or _NOBODY
        if other["job_id"] == job_id:
            raise LostPeer(f"{path} was taken by another attempt of this job at this moment")
        raise UserError(f"{path} was taken by job {other['job_id']} at this moment: choose another {flag}")
    lock = Lock(path, file, owner)
    try:
        yield lock
    finally:
        lock.release()


def check_free(path: epath.Path, *, flag: str = "--job_dir") -> None:
    """Raises UserError if some job is at work in the directory of a lock file."""
    _check_abandoned(read(path), path, flag)


def _check_abandoned(found: Mapping[str, Any] | None, path: epath.Path, flag: str) -> None:
    age = math.inf if found is None else time.time() - found["heartbeat"]
    if found is not None and age < _STALE_SECONDS:
        raise UserError(
            f"{path.parent} belongs to job {found['job_id']} (process {found['pid']} on {found['host']}, seen {age:.0f} s "
            f"ago): choose another {flag}, or wait until that job has ended (one that was killed has in "
            f"{_STALE_SECONDS - age:.0f} s)"
        )


def is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two things that `read` returned tell of the same owner."""
    return one is not None and other is not None and {**one, "heartbeat": None} == {**other, "heartbeat": None}


def read(path: epath.Path) -> dict[str, Any] | None:
    """Returns what a lock file says, or None if there is none."""
    return _parsed(lock_file.at(path).read())


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return _NOBODY
    is_lock = isinstance(found, dict) and found.keys() == _NOBODY.keys() and isinstance(found["heartbeat"], int | float)
    return found if is_lock else _NOBODY


def _content(owner: Mapping[str, Any]) -> bytes:
    return json.dumps(owner).encode()
