"""The moments at which a job's training steps end, as a benchmark sees them from outside: it listens where the guard would."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trainer import heartbeat

_REPOSITORY = Path(__file__).parents[1]


class Job:
    """A running command that trains."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cores: Sequence[int] | None) -> None:
        self._beats, end = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, `end` closes it
        self.began = time.monotonic()
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores or allowed)
        try:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment, heartbeat.VARIABLE: str(end)},
                pass_fds=(end,),
                stdout=self._log,
                stderr=self._log,
                cwd=_REPOSITORY,
            )
        finally:
            os.sched_setaffinity(0, allowed)
        os.close(end)

    def steps(self, count: int) -> list[float]:
        """Waits for steps.

        Returns:
          When each ended, on the clock of `time.monotonic`.

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

    def end(self) -> None:
        """Ends it, wherever it is."""
        self._process.kill()
        self._process.wait()
        os.close(self._beats)
        self._log.close()


@contextlib.contextmanager
def job(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cores: Sequence[int] | None = None
) -> Iterator[Job]:
    """Runs a command until the block ends; `cores` are those that it may use."""
    running = Job(command, environment or {}, cores)
    try:
        yield running
    finally:
        running.end()


def images_per_second(moments: Sequence[float], *, batch_size: int, first: int) -> float:
    """The rate from the end of the step `first` to that of the last one."""
    return (len(moments) - first) * batch_size / (moments[-1] - moments[first - 1])
