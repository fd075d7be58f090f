"""Signs of life from a worker to its guard: a pipe whose number is in POSTER_GUARD_FD; without a guard nobody listens.

A worker that waits in TensorFlow holds the interpreter's lock and answers nothing, so that silence is what tells the guard that it
hangs. What counts is work done: a batch, a file, a checkpoint, not the time that passes.
"""

import contextlib
import os

VARIABLE = "POSTER_GUARD_FD"

STEP, CONNECTING, OTHER = b"s", b"c", b"."


def beat(sign: bytes = OTHER) -> None:
    """Tells the guard that something was done.

    Args:
      sign: STEP after training steps, CONNECTING before TensorFlow connects the workers, else OTHER.
    """
    pipe = os.environ.get(VARIABLE)
    if pipe:
        # A full pipe is a sign of life too, and a guard that is gone takes its worker with it.
        with contextlib.suppress(OSError):
            os.write(int(pipe), sign)
