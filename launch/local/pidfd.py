"""Descriptors of processes, pidfd_open(2): one becomes readable when its process ends, and never refers to another process."""

import os
import signal
import sys

from trainer.errors import UserError

_NEEDS_LINUX = "--target=local needs Linux: use a Linux machine, or train with one worker by python -m trainer.task"


def check_supported() -> None:
    """Checks that this system has such descriptors.

    Raises:
      UserError: it is not Linux, or Python was built on a Linux without them.
    """
    os.close(open_process(os.getpid()))


def open_process(pid: int) -> int:
    """Returns a descriptor of a process; the caller closes it.

    Args:
      pid: the process id.

    Raises:
      ProcessLookupError: the process does not exist.
      UserError: this system has no such descriptors.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise UserError(_NEEDS_LINUX)
    return os.pidfd_open(pid)


def send_signal(descriptor: int, number: int) -> None:
    """Sends a signal to a process.

    Args:
      descriptor: the descriptor that `open_process` returned.
      number: the signal, such as signal.SIGTERM.

    Raises:
      ProcessLookupError: the process has ended.
      UserError: this system has no such descriptors.
    """
    if sys.platform != "linux":
        raise UserError(_NEEDS_LINUX)
    signal.pidfd_send_signal(descriptor, number)
