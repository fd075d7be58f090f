"""A worker's side of its guard, which a worker calls before anything else; without a guard it does nothing."""

import ctypes
import faulthandler
import os
import signal
import sys

VARIABLE = "POSTER_GUARD_PID"

_PR_SET_PDEATHSIG = 1  # Of linux/prctl.h.


def under_guard() -> None:
    """Lets the guard ask for the stacks of all threads, by SIGQUIT, and has the kernel end this process when the guard dies.

    Neither needs the interpreter's lock, which TensorFlow holds while it waits for peers. An exec keeps the second and loses the
    first, so the new program calls this again.
    """
    guard = os.environ.get(VARIABLE)
    # The guard gives its worker a session; the worker's own processes inherit the variable, but lead no session.
    if not guard or os.getsid(0) != os.getpid():
        return
    if sys.stderr is not None:
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)
    if sys.platform == "linux":
        # A worker that outlived its guard would hold the cluster's port, and nobody would end it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != int(guard):  # It died before the kernel was asked.
        os.kill(os.getpid(), signal.SIGKILL)
