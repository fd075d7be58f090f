"""LOCK.json: one job at a time writes to a job directory."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from trainer import files
from trainer.errors import LostPeer, UserError

_log = logging.getLogger(__name__)

_BEAT_SECONDS = 10
_STALE_SECONDS = 60

# A lock that says nothing: its owner was killed between making the file and filling it, or someone has damaged it.
_NOBODY = {"job_id": None, "attempt": 0, "host": "unknown", "pid": 0, "heartbeat": 0.0}


class Lock:
    """Owns a job directory as long as the file says so.

    The file holds `{job_id, attempt, host, pid, heartbeat}`, the heartbeat in seconds since 1970. It is made with O_EXCL, so
    that of two jobs that begin together one gets it.
    """

    def __init__(self, path: epath.Path, owner: dict[str, Any]) -> None:
        """Args:
        path: LOCK.json.
        owner: what was written there.
        """
        self._path, self._owner = path, owner
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="lock heartbeat", daemon=True).start()

    def check(self) -> None:
        """To be called before anything is written.

        Raises:
          LostPeer: the directory has gone to another attempt.
        """
        if not self._holds():
            raise LostPeer(f"{self._path} has gone to another attempt of this job: this one stops writing")

    def release(self) -> None:
        """Gives the directory back."""
        self._released.set()
        if self._holds():
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_SECONDS):
            try:
                if not self._holds():
                    return
                files.write_json(self._path, self._owner | {"heartbeat": time.time()})
            except OSError as error:
                _log.warning("%s: %s", self._path, error)

    def _holds(self) -> bool:
        found = read(self._path)
        return is_same(found, self._owner)


@contextlib.contextmanager
def held(path: epath.Path, job_id: str) -> Iterator[Lock]:
    """Takes a job directory for the time of a `with` block.

    The same job takes over at once: what had the lock is an earlier attempt of it. Another job takes over when the heartbeat
    is a minute old.

    Args:
      path: LOCK.json.
      job_id: names the job, the same for every attempt at it.

    Raises:
      UserError: another job is at work there.
      LostPeer: another attempt at this job has taken the directory at this moment.
    """
    attempt = 1
    found = read(path)
    if found is not None:
        age = time.time() - found["heartbeat"]
        if found["job_id"] == job_id:
            attempt = found["attempt"] + 1
        elif age < _STALE_SECONDS:
            raise UserError(
                f"{path.parent} belongs to job {found['job_id']} (process {found['pid']} on {found['host']}, seen {age:.0f} s "
                "ago): choose another --job_dir, or wait until that job has ended"
            )
        # Of several that see the same old lock one renames it away; the others find nothing to rename.
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            path.replace(aside)
            aside.unlink()
    owner = {"job_id": job_id, "attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time()}
    try:
        with open(path, "x") as file:  # noqa: PTH123 (epath has no exclusive mode)
            json.dump(owner, file)
    except FileExistsError:
        other = read(path) or _NOBODY
        if other["job_id"] == job_id:
            raise LostPeer(f"{path} was taken by another attempt of this job at this moment") from None
        raise UserError(f"{path} was taken by job {other['job_id']} at this moment: choose another --job_dir") from None
    lock = Lock(path, owner)
    try:
        yield lock
    finally:
        lock.release()


def is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two things that `read` returned tell of the same owner."""
    return one is not None and other is not None and {**one, "heartbeat": None} == {**other, "heartbeat": None}


def read(path: epath.Path) -> dict[str, Any] | None:
    """Returns what a lock file says, or None if there is none."""
    try:
        found = files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        return _NOBODY
    is_lock = isinstance(found, dict) and found.keys() == _NOBODY.keys() and isinstance(found["heartbeat"], int | float)
    return found if is_lock else _NOBODY
