"""What launch does with jobs on this machine: run, status, logs, cancel, list."""

import contextlib
import datetime
import json
import os
import signal
import time
from collections.abc import Iterator

from launch import preflight
from launch.console import age, print_table, tell, write
from launch.job import Job, Place
from launch.local import spec as local
from launch.local import state as local_state
from launch.local.supervisor import supervise
from trainer.errors import UserError

_POLL = 0.2  # Seconds between two looks at a log.
_READ = 64 * 1024


def print_spec(job: Job) -> None:
    """Prints the processes that a job becomes, as one JSON object."""
    print(json.dumps(local.describe(local.plan(job)), indent=2))


def run(job: Job, *, wait: bool, look: bool) -> None:
    """Runs a job to its end.

    Args:
      job: the job.
      wait: nothing here: its launcher is what keeps the job running.
      look: whether to look at the data set and the job directory first.

    Raises:
      Ended: it could not be started, or did not end well.
      Stopped: the user stopped it.
    """
    spec = local.plan(job)
    if look:
        preflight.check_places(job, is_remote=False)
    with local_state.kept(spec.job_id, len(spec.workers)) as keeper:
        supervise(spec, keeper)


def status(name: str, place: Place) -> None:
    """Prints how a job and each of its workers are.

    Raises:
      UserError: there is no such job.
    """
    state = local_state.read(name)
    print(f"{name}  {state.word}{f': {state.reason}' if state.reason else ''}")
    rows = [("WORKER", "PROCESS", "STATE", "EXIT", "CRASHES")]
    for index, worker in enumerate(state.workers):
        exit_code = "" if worker.exit_code is None else str(worker.exit_code)
        rows.append((str(index), str(worker.pid or ""), worker.word, exit_code, str(worker.crashes)))
    print_table(rows)


def logs(name: str, place: Place) -> None:
    """Prints what all workers have written and write, until the job is over.

    Raises:
      UserError: there is no such job.
    """
    local_state.read(name)
    with local_state.log_path(name).open("rb") as log:
        while True:
            over = not local_state.is_running(name)  # Before the last look.
            while data := log.read(_READ):
                write(data)
            if over:
                return
            time.sleep(_POLL)


def cancel(name: str, place: Place) -> None:
    """Asks a job to end: its workers save their state.

    Raises:
      UserError: there is no such job, or it does not run.
    """
    state = local_state.read(name)
    if state.machine != local_state.machine():
        raise UserError(f"{name} was started on another machine, or in a container, {state.machine.split()[0]}: cancel it there")
    with contextlib.suppress(ProcessLookupError), _process(state.pid) as process:
        # The number is the launcher's as long as it holds the lock, and the descriptor stays that process's.
        if local_state.is_running(name):
            signal.pidfd_send_signal(process, signal.SIGTERM)
            tell(f"job {name} ends as soon as its workers have saved their state; the command that started it goes on from there")
            return
    raise UserError(f"{name} does not run: it is {local_state.read(name).word}")


def list_jobs(place: Place) -> None:
    """Prints the jobs of this machine that are known: those that run, and the last that have ended."""
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    for state in local_state.read_all():
        started = datetime.datetime.fromtimestamp(state.started, datetime.UTC)
        rows.append((state.name, state.word, str(len(state.workers)), age(started)))
    print_table(rows)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
