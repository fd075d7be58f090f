"""Starting and following a job on a remote service: polls through outages, and tells the user how to get back to the job."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from launch.console import tell
from trainer.errors import Ended, LostService, Stopped

_T = TypeVar("_T")

MAX_OUTAGE = 300.0
"""Seconds that a service may be unavailable while a job is followed."""


@contextlib.contextmanager
def submitting(name: str, location_flags: str) -> Iterator[None]:
    """Adds to an error of the block, which creates a job, that the job may exist nevertheless.

    Args:
      name: the job's name.
      location_flags: the flags of launch with which the job is found.
    """
    remedy = f"{name} may have been created: cancel it with python -m launch cancel {name} {location_flags}"
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"interrupted; {remedy}") from None
    except LostService as error:
        raise LostService(f"{error}; {remedy}") from None


@contextlib.contextmanager
def following(name: str, location_flags: str) -> Iterator[None]:
    """Adds to an error of the block, which follows a job, that the job goes on.

    Args:
      name: the job's name.
      location_flags: the flags of launch with which the job is found.
    """
    remedy = f"the job goes on: follow it with python -m launch logs {name} {location_flags}, or end it with cancel"
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"no longer following; {remedy}") from None
    except Ended as error:
        raise type(error)(f"{error}; {remedy}") from None


def announce(name: str, location_flags: str) -> None:
    """Prints the name of a job that runs on without this process, and how to follow it.

    Args:
      name: the job's name.
      location_flags: the flags of launch with which the job is found.
    """
    tell(f"follow it with python -m launch logs {name} {location_flags}; status and cancel take the same arguments")
    print(name)


class Poller:
    """Polls a service, and tolerates that it is unavailable for up to `MAX_OUTAGE` seconds."""

    def __init__(self) -> None:
        self._lost_since: float | None = None

    def poll(self, question: Callable[[], _T]) -> _T | None:
        """Asks once; returns the answer, or None if the service is unavailable.

        Args:
          question: the call to the service.

        Raises:
          LostService: the service has been unavailable for more than `MAX_OUTAGE` seconds.
        """
        try:
            answer = question()
        except LostService as error:
            now = time.monotonic()
            if self._lost_since is None:
                self._lost_since = now
                tell(f"{error} (retrying for {MAX_OUTAGE:g} s)")
            if now - self._lost_since > MAX_OUTAGE:
                raise
            return None
        self._lost_since = None
        return answer


def poll_until_answered(question: Callable[[], _T], *, interval: float) -> _T:
    """Asks until the service answers, and returns the answer.

    Args:
      question: the call to the service; its answer is never None.
      interval: the seconds between two calls.

    Raises:
      LostService: the service has been unavailable for more than `MAX_OUTAGE` seconds.
    """
    poller = Poller()
    while (answer := poller.poll(question)) is None:
        time.sleep(interval)
    return answer
