"""SIGTERM and Ctrl-C: training ends at its next step with the state saved, anything else at once."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from trainer.errors import Stopped

# Seconds: a repetition is no second request sooner, since a terminal and a wrapper may both pass one on.
_ONE_REQUEST = 0.25


class StopRequest:
    """Listens for both signals from the moment it is made; a second signal never waits.

    Attributes:
      requested: whether someone asked.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False
        self._since = 0.0
        self.listen()

    def listen(self) -> None:
        """Takes both signals, again if need be: TensorFlow takes SIGTERM for itself as it joins a cluster, and ignores it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises `Stopped` if someone asked meanwhile."""
        if self.requested:
            raise Stopped("asked to stop; the same command goes on from the last backup")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A block within a deferred one in which there is nothing to save: a request ends it at once."""
        self.check()
        deferring, self._deferring = self._deferring, False
        try:
            yield
        finally:
            self._deferring = deferring

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that looks at `requested` itself."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
        wait = self._deferring and now - self._since <= _ONE_REQUEST
        if not wait:
            raise Stopped(f"asked to stop by {signal.Signals(number).name}; the same command goes on from the last backup")
