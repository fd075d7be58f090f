"""The processes that a supervisor keeps running, as they are to be and as they are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A process to keep running.

    Attributes:
      command: what is started.
      environment: what it has besides the supervisor's own environment.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The processes of a job.

    Attributes:
      job_id: what the job calls itself in its lock.
      workers: its processes.
      restarts: how often each may crash and be started again.
      grace_period: seconds that a process has to save its state after SIGTERM.
      time_limit: seconds after which all are stopped; None: never.
    """

    job_id: str
    workers: tuple[Worker, ...]
    restarts: int
    grace_period: float
    time_limit: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerState:
    """How a worker is.

    Attributes:
      word: running, waiting (to be started again), done or ended.
      pid: of its guard while it runs.
      exit_code: of its last end, if it had one.
      crashes: how often it has crashed.
    """

    word: str
    pid: int | None
    exit_code: int | None
    crashes: int


class Watcher(Protocol):
    """Who is told of a job as it goes on. What it does must take no time and raise nothing."""

    def on_output(self, data: bytes) -> None:
        """Takes whole lines of the job's log."""

    def on_change(self, workers: Sequence[WorkerState]) -> None:
        """Takes how each worker is after one of them has begun or ended."""
