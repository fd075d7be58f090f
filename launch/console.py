"""What the verbs of all targets share: how they show jobs, bear with a service that is away, and end."""

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from trainer.errors import EXIT_DONE, EXIT_LOST_PEER, EXIT_STOPPED, EXIT_USER_ERROR, Ended, LostService, Stopped

_T = TypeVar("_T")

# Seconds that a service may be away while a job of it is followed.
PATIENCE = 300.0


class JobFailed(Ended):
    """A job has failed; its worker's exit code is the command's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def job_code(codes: Sequence[int]) -> int:
    """The exit code that a failed job's comes to: 2 where a worker says that a restart is of no use, else its last crash's.

    Args:
      codes: its workers', the oldest first.
    """
    if EXIT_USER_ERROR in codes:
        return EXIT_USER_ERROR
    failures = [code for code in codes if code != EXIT_DONE]
    # The others lost the one that crashed, and were then asked to stop.
    crashes = [code for code in failures if code not in (EXIT_LOST_PEER, EXIT_STOPPED)]
    return (crashes or failures or [1])[-1]


@contextlib.contextmanager
def submitting(name: str, place: str) -> Iterator[None]:
    """Says of a job that is being made, should the block not come to its end, that it may be there all the same.

    Args:
      name: of this launch of it.
      place: the flags that say where it is.
    """
    look = f"{name} may have been made all the same: python -m launch cancel {name} {place} ends it"
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"interrupted; {look}") from None
    except LostService as error:
        raise LostService(f"{error}; {look}") from None


@contextlib.contextmanager
def following(name: str, place: str) -> Iterator[None]:
    """Says of a job that is followed, should the block not come to its end, that it goes on."""
    goes_on = f"the job goes on: python -m launch logs {name} {place} follows it again, cancel ends it"
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"no longer following; {goes_on}") from None
    except Ended as error:
        raise type(error)(f"{error}; {goes_on}") from None


class Patience:
    """Asks a service again and again, and bears with one that does not answer for a while."""

    def __init__(self) -> None:
        self._lost_since: float | None = None

    def ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer, or None where there was none.

        Raises:
          LostService: there has been none for too long.
        """
        try:
            answer = question()
        except LostService as error:
            now = time.monotonic()
            if self._lost_since is None:
                self._lost_since = now
                tell(f"{error}; trying on")
            if now - self._lost_since > PATIENCE:
                raise
            return None
        self._lost_since = None
        return answer


def age(moment: datetime.datetime) -> str:
    """How long ago a moment was, in one unit."""
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints rows in columns, the first row being their heads."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def tell(text: str) -> None:
    """Says something about a job, apart from its output."""
    print(f"launch: {text}", file=sys.stderr)


_output = threading.Lock()


def write(data: bytes) -> None:
    """Passes on what a job's workers wrote; any thread may."""
    with _output:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # Nobody reads along any more; the job goes on.
            os._exit(0)
