"""Signals of a supervising process: it reads them from a pipe, and its children receive SIGTERM when it ends."""

import contextlib
import os
import signal
from collections.abc import Iterator

from trainer.errors import EXIT_STOPPED
from trainer.process import parent_death


def end_with(parent: int) -> None:
    """Makes the calling process, a future worker, receive SIGTERM when its supervisor ends, even by SIGKILL.

    Args:
      parent: the supervisor's process id.
    """
    parent_death.request_signal(signal.SIGTERM)
    if os.getppid() != parent:  # The supervisor has ended already.
        os._exit(EXIT_STOPPED)


@contextlib.contextmanager
def arriving() -> Iterator[int]:
    """Redirects SIGTERM, SIGINT and SIGHUP to a pipe during a `with` block; yields the pipe's reading end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    # Keep ignoring what nohup, or a shell's & in a script, has made this process ignore.
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, lambda *_: None)
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(reading)
        os.close(writing)
