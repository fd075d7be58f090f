"""Runs jobs of trainer.task and reports when their training steps end, from the heartbeats meant for the guard."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.lib import affinity
from benchmarks.lib.comparison import REPOSITORY
from trainer.process import heartbeat


class Job:
    """A running command that trains.

    Attributes:
      began: start time, on the clock of `time.monotonic`.
    """

    def __init__(self, beats: int, log: IO[bytes], began: float) -> None:
        self.began = began
        self._beats, self._log = beats, log

    def steps(self, count: int) -> list[float]:
        """Waits for steps.

        Returns:
          The time at which each step ended, on the same clock.

        Raises:
          RuntimeError: the command ended first; the message has the end of its output.
        """
        moments: list[float] = []
        while len(moments) < count:
            signs = os.read(self._beats, 1024)
            if not signs:
                self._log.seek(0)
                raise RuntimeError(self._log.read().decode(errors="replace")[-3000:])
            moments += [time.monotonic()] * signs.count(heartbeat.STEP)
        return moments


@contextlib.contextmanager
def job(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cores: Sequence[int] | None = None
) -> Iterator[Job]:
    """Runs a command until the block ends, on all allowed cores or only on `cores`."""
    beats, end = os.pipe()
    allowed = affinity.allowed_cores()
    with tempfile.TemporaryFile() as log:
        affinity.limit_to(cores or allowed)
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {}), heartbeat.VARIABLE: str(end)},
            pass_fds=(end,),
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
        )
        affinity.limit_to(allowed)
        os.close(end)
        try:
            yield Job(beats, log, began)
        finally:
            process.kill()
            process.wait()
            os.close(beats)


def train(data_dir: Path | str, job_dir: Path | str, *options: str) -> tuple[str, ...]:
    """Returns the command of a job."""
    return (sys.executable, "-m", "trainer.task", f"--data_dir={data_dir}", f"--job_dir={job_dir}", *options)


def images_per_second(moments: Sequence[float], *, batch_size: int, first: int) -> float:
    """Returns the rate from the end of step `first`, counted from 1, to the end of the last step."""
    return (len(moments) - first) * batch_size / (moments[-1] - moments[first - 1])
