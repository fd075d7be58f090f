"""Jobs of trainer.task, and the moments at which their training steps end: a benchmark listens where the guard would."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.lib.comparison import REPOSITORY
from trainer.process import heartbeat


class Job:
    """A running command that trains.

    Attributes:
      began: when it was started, on the clock of `time.monotonic`.
    """

    def __init__(self, beats: int, log: IO[bytes], began: float) -> None:
        self.began = began
        self._beats, self._log = beats, log

    def steps(self, count: int) -> list[float]:
        """Waits for steps.

        Returns:
          When each ended, on the same clock.

        Raises:
          RuntimeError: the command ended before.
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
    """Runs a command until the block ends; `cores` are those that it may use."""
    beats, end = os.pipe()
    allowed = os.sched_getaffinity(0)
    with tempfile.TemporaryFile() as log:
        os.sched_setaffinity(0, cores or allowed)
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {}), heartbeat.VARIABLE: str(end)},
            pass_fds=(end,),
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
        )
        os.sched_setaffinity(0, allowed)
        os.close(end)
        try:
            yield Job(beats, log, began)
        finally:
            process.kill()
            process.wait()
            os.close(beats)


def train(data_dir: Path | str, job_dir: Path | str, *options: str) -> tuple[str, ...]:
    """The command of a job."""
    return (sys.executable, "-m", "trainer.task", f"--data_dir={data_dir}", f"--job_dir={job_dir}", *options)


def images_per_second(moments: Sequence[float], *, batch_size: int, first: int) -> float:
    """The rate from the end of the step `first`, counted from 1, to that of the last one."""
    return (len(moments) - first) * batch_size / (moments[-1] - moments[first - 1])
