"""The commands of launch for jobs on this machine: run, status, logs, cancel, list."""

import contextlib
import datetime
import json
import os
import signal
import time
from collections.abc import Iterator

from launch import preflight
from launch.console import age, print_table, tell, write
from launch.job import Job, Location
from launch.local import pidfd, spec, state
from launch.local.supervisor import supervise
from trainer.errors import UserError

_POLL = 0.2  # Seconds between two reads of a log that is followed.
_CHUNK = 64 * 1024  # Bytes.


def print_spec(job: Job) -> None:
    """Prints the processes of a job as one JSON object."""
    print(json.dumps(spec.describe(spec.plan(job)), indent=2))


def run(job: Job, *, wait: bool, run_preflight: bool) -> None:
    """Runs a job on this machine to its end, whatever `wait` says, as this process keeps it running; see `Target.run`."""
    plan = spec.plan(job)
    if run_preflight:
        preflight.check_paths(job, is_remote=False)
    with state.recording(plan.job_id, len(plan.workers)) as recorder:
        supervise(plan, recorder)


def status(name: str, location: Location) -> None:
    """Prints the state of a job and of each of its workers.

    Args:
      name: the job's name.
      location: ignored.

    Raises:
      UserError: the job does not exist.
    """
    record = state.read(name)
    print(f"{name}  {record.word}{f': {record.reason}' if record.reason else ''}")
    rows = [("WORKER", "PROCESS", "STATE", "EXIT", "CRASHES")]
    for index, worker in enumerate(record.workers):
        exit_code = "" if worker.exit_code is None else str(worker.exit_code)
        rows.append((str(index), str(worker.pid or ""), worker.word, exit_code, str(worker.crashes)))
    print_table(rows)


def logs(name: str, location: Location) -> None:
    """Prints the log of all workers from its beginning until the job ends.

    Args:
      name: the job's name.
      location: ignored.

    Raises:
      UserError: the job does not exist.
    """
    state.read(name)
    with state.log_path(name).open("rb") as log:
        while True:
            over = not state.is_running(name)  # Before the last read, so that the log is then complete.
            while data := log.read(_CHUNK):
                write(data)
            if over:
                return
            time.sleep(_POLL)


def cancel(name: str, location: Location) -> None:
    """Asks a job to end; its workers save their state first.

    Args:
      name: the job's name.
      location: ignored.

    Raises:
      UserError: the job does not exist, is not running, or was started on another machine or in another container.
    """
    record = state.read(name)
    if record.machine != state.machine():
        raise UserError(
            f"job {name} was started on another machine or in another container ({record.machine.split()[0]}): cancel it there"
        )
    with contextlib.suppress(ProcessLookupError), _process(record.pid) as process:
        # While the launcher holds the lock, the pid is its own; the descriptor then refers to it even after it has ended.
        if state.is_running(name):
            pidfd.send_signal(process, signal.SIGTERM)
            tell(f"job {name} ends as soon as its workers have saved their state; the same command resumes from there")
            return
    raise UserError(f"job {name} is not running ({state.read(name).word}): cancel only a job that is running")


def list_jobs(location: Location) -> None:
    """Prints the jobs of this machine: all that run, and the last that have ended; the newest comes last.

    Args:
      location: ignored.
    """
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    for record in state.read_all():
        started = datetime.datetime.fromtimestamp(record.started, datetime.UTC)
        rows.append((record.name, record.word, str(len(record.workers)), age(started)))
    print_table(rows)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    """Opens a pidfd of a process for a `with` block."""
    descriptor = pidfd.open_process(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
