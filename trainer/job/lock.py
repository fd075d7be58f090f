"""LOCK.json, by which only one job at a time writes to a job directory."""

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

# For a file without a valid content: its owner was killed before it wrote the content, or the file is damaged.
_NOBODY = {"job_id": None, "attempt": 0, "host": "unknown", "pid": 0, "heartbeat": 0.0}


class Lock:
    """The ownership of a job directory, which lasts while the file names this process.

    The file contains `{job_id, attempt, host, pid, heartbeat}`, the heartbeat in seconds since 1970.
    """

    def __init__(self, path: epath.Path, file: LockFile, owner: dict[str, Any]) -> None:
        """Args:
        path: the path of the lock file, for messages.
        file: the lock file, which this process has taken.
        owner: the content that this process wrote to it.
        """
        self._path, self._file, self._owner = path, file, owner
        # One thread at a time: `file` remembers the generation that it saw last.
        self._mutex = threading.Lock()
        self._released = threading.Event()
        self._is_left = False
        threading.Thread(target=self._beat, name="lock heartbeat", daemon=True).start()

    def check(self) -> None:
        """Checks that this process still owns the directory. Call it before each write.

        Raises:
          LostPeer: another attempt has taken the directory.
        """
        with self._mutex:
            if not self._holds():
                raise LostPeer(f"{self._path} was taken by another attempt of this job, which continues it: this attempt stops")

    def leave(self) -> None:
        """Ends the heartbeat but keeps the file, so that the next attempt knows that this one did not finish."""
        self._released.set()
        self._is_left = True

    def release(self) -> None:
        """Ends the heartbeat and removes the file, unless `leave` was called."""
        self._released.set()
        if self._is_left:
            return
        try:
            with self._mutex:
                if self._holds():
                    self._file.remove()
        except (OSError, Ended) as error:
            # The lock expires by itself, and must not hide the reason why the block ended.
            _log.warning("%s could not be removed: %s", self._path, error)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_SECONDS):
            try:
                with self._mutex:
                    if self._released.is_set() or not self._holds():
                        return
                    self._file.renew(_content(self._owner | {"heartbeat": time.time()}))
            except (OSError, Ended) as error:
                _log.warning("%s: the heartbeat could not be written: %s", self._path, error)

    def _holds(self) -> bool:
        return is_same(_parsed(self._file.read()), self._owner)


@contextlib.contextmanager
def held(path: epath.Path, job_id: str, *, flag: str = "--job_dir") -> Iterator[Lock]:
    """Owns a job directory within a `with` block.

    A lock of the same job is taken over at once: it belongs to an earlier attempt. A lock of another job is taken over when its
    heartbeat is a minute old.

    Args:
      path: the path of the lock file.
      job_id: the name of the job, the same for all its attempts.
      flag: the flag that names the directory, for error messages.

    Raises:
      UserError: another job owns the directory.
      LostPeer: another attempt of this job took the directory at the same moment.
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
            raise LostPeer(f"{path} was taken by another attempt of this job at the same moment: run the same command again")
        raise UserError(f"{path} was taken by job {other['job_id']} at the same moment: choose another {flag}")
    lock = Lock(path, file, owner)
    try:
        yield lock
    finally:
        lock.release()


def check_free(path: epath.Path, *, flag: str = "--job_dir") -> None:
    """Checks that no job is running in a directory.

    Args:
      path: the path of the lock file in the directory.
      flag: the flag that names the directory, for error messages.

    Raises:
      UserError: a job owns the directory.
    """
    _check_abandoned(read(path), path, flag)


def _check_abandoned(found: Mapping[str, Any] | None, path: epath.Path, flag: str) -> None:
    age = math.inf if found is None else time.time() - found["heartbeat"]
    if found is not None and age < _STALE_SECONDS:
        raise UserError(
            f"{path.parent} belongs to job {found['job_id']} (process {found['pid']} on {found['host']}, seen {age:.0f} s "
            f"ago): choose another {flag}, or wait until that job ends (if it was killed, "
            f"{_STALE_SECONDS - age:.0f} s from now)"
        )


def is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Returns whether two contents of a lock file, as `read` returns them, name the same owner."""
    return one is not None and other is not None and {**one, "heartbeat": None} == {**other, "heartbeat": None}


def read(path: epath.Path) -> dict[str, Any] | None:
    """Returns the content of a lock file, or None if there is no file."""
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
