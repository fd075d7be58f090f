"""The worker's side of `trainer.guard`: every worker calls this first. A worker without a guard is not affected."""

import faulthandler
import os
import signal
import sys

from trainer.process import parent_death

VARIABLE = "POSTER_GUARD_PID"


def under_guard() -> None:
    """Prints the stacks of all threads on SIGQUIT, which the guard sends, and ends this process when the guard dies.

    Neither needs the interpreter's lock, which TensorFlow holds while it waits for peers. An exec keeps the second and loses the
    first, so the new program calls this again.
    """
    guard = os.environ.get(VARIABLE)
    # The guard starts its worker as a session leader. Processes that the worker starts inherit the variable, but lead no session.
    if not guard or os.getsid(0) != os.getpid():
        return
    if sys.stderr is not None:
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)
    # A worker that outlived its guard would keep the cluster's port, and nobody would end it.
    parent_death.request_signal(signal.SIGKILL)
    if os.getppid() != int(guard):  # The guard died before the request.
        os.kill(os.getpid(), signal.SIGKILL)
