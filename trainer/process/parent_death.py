"""A signal from the kernel when the parent process ends: prctl(2), PR_SET_PDEATHSIG."""

import ctypes
import sys

_PR_SET_PDEATHSIG = 1  # From linux/prctl.h.

# Loaded here: a process between fork and exec must not load a library.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def request_signal(number: int) -> None:
    """Has the kernel send this process a signal when its parent ends, even by SIGKILL; does nothing outside Linux.

    A parent that has ended before this call sends no signal: compare `os.getppid()` afterwards. An exec keeps the request.

    Args:
      number: the signal, such as signal.SIGTERM.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
