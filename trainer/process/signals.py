"""SIGTERM and Ctrl-C: training ends after its current step with the state saved; everything else ends at once."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from trainer.errors import Stopped

SAME_REQUEST_SECONDS = 0.25
"""A signal repeated within this time is the same request: a terminal, make, timeout(1) or a wrapper may each send it once."""


class StopRequest:
    """Listens for both signals from its creation on. A second request always ends the process at once.

    Attributes:
      requested: whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False
        self._since = 0.0
        self.listen()

    def listen(self) -> None:
        """Installs the handlers. Call it again after TensorFlow joins a cluster, which makes the process ignore SIGTERM."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises `Stopped` if a signal has arrived."""
        if self.requested:
            raise Stopped("asked to stop; the same command goes on from the last backup")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Ends the process at once on a signal, within a `deferred` block: for parts in which there is nothing to save."""
        self.check()
        deferring, self._deferring = self._deferring, False
        try:
            yield
        finally:
            self._deferring = deferring

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only sets `requested` on the first signal; the code in the block checks it."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
        wait = self._deferring and now - self._since <= SAME_REQUEST_SECONDS
        if not wait:
            raise Stopped(f"asked to stop by {signal.Signals(number).name}; the same command goes on from the last backup")
