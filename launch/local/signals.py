"""Signals of a process that looks after others: they arrive in a pipe, and the others end with it."""

import contextlib
import os
import signal
from collections.abc import Iterator

from trainer.errors import EXIT_STOPPED
from trainer.process import parent_death


def end_with(parent: int) -> None:
    """Has the calling process, which is to become a worker, asked to stop when the supervisor ends, be it by SIGKILL."""
    parent_death.request_signal(signal.SIGTERM)
    if os.getppid() != parent:  # It has ended already.
        os._exit(EXIT_STOPPED)


@contextlib.contextmanager
def arriving() -> Iterator[int]:
    """Has signals that ask to stop appear in a pipe, whose reading end this gives, for the time of a `with` block."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    # nohup, and a shell's & in a script, have a process ignore what is not meant for it.
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
