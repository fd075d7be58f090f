"""What launch does with jobs on Vertex AI: run, status, logs, cancel, list."""

import json
import re
import time

from launch import preflight
from launch.console import JobFailed, Patience, age, following, job_code, print_table, submitting, tell, write
from launch.job import Job, Place
from launch.vertex import logs as vertex_logs
from launch.vertex import spec as vertex
from launch.vertex.api import Api, Found
from trainer.errors import EXIT_USER_ERROR, Stopped, UserError

_WORDS = {
    "UNSPECIFIED": "waiting",
    "QUEUED": "waiting",
    "PAUSED": "waiting",
    "PENDING": "starting",
    "RUNNING": "running",
    "UPDATING": "running",
    "CANCELLING": "stopping",
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "PARTIALLY_SUCCEEDED": "failed",
    "CANCELLED": "cancelled",
}
_FINAL = ("done", "failed", "cancelled")

# As in "The replica workerpool0-0 exited with a non-zero status of 2."
_EXIT = re.compile("non-zero status of ([0-9]+)")
_DEADLINE_EXCEEDED = 4  # Of google.rpc.Code.


def print_spec(job: Job) -> None:
    """Prints the CustomJob that a job becomes as one JSON object; asks nobody."""
    spec = vertex.specify(job, name=job.new_name())
    for note in vertex.notes(job):
        tell(note)
    write(f"{json.dumps(spec, indent=2, ensure_ascii=False)}\n".encode())


def run(job: Job, *, wait: bool, look: bool) -> None:
    """Starts a job, and prints its name.

    Args:
      job: the job.
      wait: whether to follow it to its end.
      look: whether to look at the data set and the job directory first.

    Raises:
      Ended: it could not be started, or did not end well.
      Stopped: it was cancelled, or the user stopped following it.
    """
    name = job.new_name()
    spec = vertex.specify(job, name=name)
    for note in vertex.notes(job):
        tell(note)
    api = Api(job.project, job.region)
    if look:
        preflight.check_places(job, is_remote=True)
    place = f"--target=vertex --project={api.project} --region={api.region}"
    with submitting(name, place):
        found = api.submit(spec)
    tell(
        f"job {name}, number {found.id}, in {api.region} of the project {api.project}: {job.workers} worker"
        f"{'s' if job.workers > 1 else ''} on {found.machine}"
    )
    if not wait:
        tell(f"python -m launch logs {name} {place} follows it, status, cancel and list look after it")
        print(name)
        return
    with following(name, place):
        _follow(api, found)
        found = _last(api, found)
    _end(found)


def status(name: str, place: Place) -> None:
    """Prints how a job is.

    Raises:
      Ended: Vertex AI does not say.
    """
    api = Api(place.project, place.region)
    job = api.get(name)
    print(f"{job.name}  {word(job)}{f': {job.reason}' if job.reason else ''}")
    moments = (job.created, job.started, job.ended)
    ages = [age(moment) if moment else "" for moment in moments]
    print_table([("NUMBER", "WORKERS", "MACHINE", "CREATED", "STARTED", "ENDED"), (job.id, str(job.workers), job.machine, *ages)])
    print(f"https://console.cloud.google.com/vertex-ai/locations/{api.region}/training/{job.id}/cpu?project={api.project}")


def logs(name: str, place: Place) -> None:
    """Prints what all workers have written and write, until the job is over.

    Raises:
      Ended: the job cannot be followed.
    """
    api = Api(place.project, place.region)
    _follow(api, api.get(name))


def cancel(name: str, place: Place) -> None:
    """Ends a job.

    Raises:
      Ended: it has ended already, or Vertex AI does not do it.
    """
    api = Api(place.project, place.region)
    job = api.get(name)
    if word(job) in _FINAL:
        raise UserError(f"job {job.name} is {word(job)} already: there is nothing to cancel")
    api.cancel(job)
    tell(
        f"job {job.name} ends as soon as Vertex AI has stopped its workers; the command that started it goes on from "
        "its last backup"
    )


def list_jobs(place: Place) -> None:
    """Prints the jobs of a project in a region, the newest first.

    Raises:
      Ended: Vertex AI does not say.
    """
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    rows += [(job.name, word(job), str(job.workers), age(job.created)) for job in Api(place.project, place.region).jobs()]
    print_table(rows)


def word(job: Found) -> str:
    """How a job is: waiting, starting, running, stopping, done, failed or cancelled."""
    return _WORDS.get(job.state, job.state.lower())


def _follow(api: Api, job: Found) -> None:
    said = ""

    def is_over() -> bool:
        nonlocal said
        now = word(api.look(job))
        if now != said:
            said = now
            tell(f"job {job.name} is {now}")
        return now in _FINAL

    vertex_logs.follow(api, job, is_over=is_over)


def _last(api: Api, job: Found) -> Found:
    """A job that is over."""
    patient = Patience()
    while (found := patient.ask(lambda: api.look(job))) is None:
        time.sleep(vertex_logs.POLL)
    return found


def _end(job: Found) -> None:
    """Ends as a job did that is over.

    Raises:
      Ended: not well.
      Stopped: it was cancelled.
    """
    if word(job) == "done":
        return
    if _is_late(job):
        raise UserError(f"job {job.name} was not done within its --time_limit: give more; it goes on from its last backup")
    if word(job) == "cancelled":
        raise Stopped(f"job {job.name} was cancelled; the command that started it goes on from its last backup")
    code = job_code([int(digits) for digits in _EXIT.findall(job.reason)])
    if code == EXIT_USER_ERROR:
        raise UserError(f"job {job.name} cannot go on until something is changed: its worker's last line says what")
    raise JobFailed(f"job {job.name} failed: {job.reason.rstrip('.') or job.state}: see its output", code)


def _is_late(job: Found) -> bool:
    """Whether a job was ended because it had run for as long as it may."""
    if job.status == _DEADLINE_EXCEEDED:
        return True
    return bool(job.started and job.ended and job.timeout and (job.ended - job.started).total_seconds() >= job.timeout)
