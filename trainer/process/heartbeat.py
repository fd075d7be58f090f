"""Heartbeats from a worker to its guard, through the pipe whose number is in POSTER_GUARD_FD; none without a guard.

A worker that waits in TensorFlow holds the interpreter's lock and cannot answer, so the guard takes silence for a hang. A heartbeat
reports finished work (a batch, a file, a checkpoint), not the passing of time.
"""

import contextlib
import os

VARIABLE = "POSTER_GUARD_FD"

STEP, CONNECTING, OTHER = b"s", b"c", b"."


def beat(sign: bytes = OTHER) -> None:
    """Tells the guard that this worker has finished a piece of work.

    Args:
      sign: STEP after training steps, CONNECTING before TensorFlow connects the workers, otherwise OTHER.
    """
    pipe = os.environ.get(VARIABLE)
    if pipe:
        # A full pipe holds unread heartbeats, so this one may be dropped. Without its guard this process is killed anyway.
        with contextlib.suppress(OSError):
            os.write(int(pipe), sign)
