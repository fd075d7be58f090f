"""The processes that a supervisor keeps running: their specification and their state."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A process to keep running.

    Attributes:
      command: the program and its arguments.
      environment: variables to add to the supervisor's own environment.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The processes of a job.

    Attributes:
      job_id: the name of the job in its lock, LOCK.json.
      workers: the processes.
      restarts: how often each process may crash and be restarted.
      grace_period: the seconds that a process has to save its state after SIGTERM.
      time_limit: the seconds after which all processes are stopped; None: no limit.
    """

    job_id: str
    workers: tuple[Worker, ...]
    restarts: int
    grace_period: float
    time_limit: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerState:
    """The state of a worker.

    Attributes:
      word: running, waiting (to be started or restarted), done or ended.
      pid: the process id of its guard; None while it does not run.
      exit_code: the exit code of its last run; None: it has not ended yet.
      crashes: how often it has crashed.
    """

    word: str
    pid: int | None
    exit_code: int | None
    crashes: int


class Watcher(Protocol):
    """Observes a job while it runs. Its methods must return at once and raise nothing."""

    def on_output(self, data: bytes) -> None:
        """Receives whole lines of the job's log."""

    def on_change(self, workers: Sequence[WorkerState]) -> None:
        """Receives the state of each worker after one of them has started or ended."""
