"""Runs a guard around a fake worker: `python -m tests.support.guard_worker FIELDS SCRIPT`.

FIELDS is JSON: fields of the job that differ from their defaults, and `pause`, the seconds before a worker is restarted. SCRIPT is
the worker's Python source, which runs after PRELUDE.
"""

import json
import sys

from trainer import guard
from trainer.config import TrainConfig
from trainer.process import log

PRELUDE = """
import atexit, ctypes, os, pathlib, signal, subprocess, sys, threading, time
from trainer.process import guarded, heartbeat
guarded.under_guard()

def say(*words):
    print(*words, flush=True)

def attempt():
    "Returns the number of this attempt, from 1."
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(".")
        return file.tell()

def hold_the_lock():
    "Hangs as in TensorFlow's C++, with the GIL held. Unlike sleep(3), a wait for one's own mutex is not interrupted by signals."
    mutex = ctypes.create_string_buffer(64)
    while True:
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""


def main() -> int:
    """Runs the worker under a guard whose pauses are short."""
    fields, script = json.loads(sys.argv[1]), sys.argv[2]
    guard.REJOIN_PAUSE, guard.STACKS_TIME, guard.TICK = fields.pop("pause", 0.05), 0.3, 0.1
    log.configure("text")
    job = TrainConfig(data_dir="-", job_dir="-", **fields)
    return guard.run([sys.executable, "-c", PRELUDE + script], job)


if __name__ == "__main__":
    sys.exit(main())
