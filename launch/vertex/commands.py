"""The commands of launch for jobs on Vertex AI: run, status, logs, cancel, list."""

import json
import re

from launch import preflight
from launch.console import age, print_table, tell, write
from launch.following import announce, following, poll_until_answered, submitting
from launch.job import Job, Location
from launch.outcome import Outcome, job_exit_code
from launch.vertex import logs as cloud_logging
from launch.vertex import spec
from launch.vertex.api import Api, SubmittedJob
from trainer.errors import UserError

# The states of the API, without JOB_STATE_, in the words of `launch list` for all targets.
_STATES = {
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

# For example in "The replica workerpool0-0 exited with a non-zero status of 2."
_EXIT_CODE = re.compile("non-zero status of ([0-9]+)")
_DEADLINE_EXCEEDED = 4  # A code of google.rpc.Code.


def print_spec(job: Job) -> None:
    """Prints the CustomJob of a job as one JSON object; contacts no service."""
    custom_job = spec.specify(job, name=job.new_name())
    for note in spec.notes(job):
        tell(note)
    write(f"{json.dumps(custom_job, indent=2, ensure_ascii=False)}\n".encode())


def run(job: Job, *, wait: bool, run_preflight: bool) -> None:
    """Starts a job on Vertex AI, and prints its name; see `launch.target.Target.run`."""
    name = job.new_name()
    custom_job = spec.specify(job, name=name)
    for note in spec.notes(job):
        tell(note)
    api = Api(job.project, job.region)
    if run_preflight:
        preflight.check_paths(job, is_remote=True)
    location_flags = f"--target=vertex --project={api.project} --region={api.region}"
    with submitting(name, location_flags):
        submitted = api.submit(custom_job)
    tell(
        f"job {name}, number {submitted.id}, in {api.region} of the project {api.project}: {job.workers} worker"
        f"{'s' if job.workers > 1 else ''} on {submitted.machine}"
    )
    if not wait:
        announce(name, location_flags)
        return
    with following(name, location_flags):
        _follow(api, submitted)
        ended = poll_until_answered(lambda: api.refresh(submitted), interval=cloud_logging.POLL)
    _outcome(ended).raise_unless_done(name)


def status(name: str, location: Location) -> None:
    """Prints the state of a job, and the URL of its page in the Google Cloud console.

    Args:
      name: the job's name or number.
      location: the project and region of the job.

    Raises:
      Ended: Vertex AI does not answer, or refuses.
    """
    api = Api(location.project, location.region)
    submitted = api.get(name)
    print(f"{submitted.name}  {state_of(submitted)}{f': {submitted.reason}' if submitted.reason else ''}")
    moments = (submitted.created, submitted.started, submitted.ended)
    ages = [age(moment) if moment else "" for moment in moments]
    heads = ("NUMBER", "WORKERS", "MACHINE", "CREATED", "STARTED", "ENDED")
    print_table([heads, (submitted.id, str(submitted.workers), submitted.machine, *ages)])
    print(f"https://console.cloud.google.com/vertex-ai/locations/{api.region}/training/{submitted.id}/cpu?project={api.project}")


def logs(name: str, location: Location) -> None:
    """Prints the log of all workers from its beginning until the job ends.

    Args:
      name: the job's name or number.
      location: the project and region of the job.

    Raises:
      Ended: the log cannot be read.
    """
    api = Api(location.project, location.region)
    _follow(api, api.get(name))


def cancel(name: str, location: Location) -> None:
    """Cancels a job.

    Args:
      name: the job's name or number.
      location: the project and region of the job.

    Raises:
      Ended: the job has ended already, or Vertex AI does not cancel it.
    """
    api = Api(location.project, location.region)
    submitted = api.get(name)
    if state_of(submitted) in _FINAL:
        raise UserError(f"job {submitted.name} has ended already ({state_of(submitted)}): cancel only a job that is still running")
    api.cancel(submitted)
    tell(f"job {submitted.name} ends as soon as Vertex AI has stopped its workers; the same command resumes from its last backup")


def list_jobs(location: Location) -> None:
    """Prints the jobs of a project in a region, the newest first.

    Args:
      location: the project and region.

    Raises:
      Ended: Vertex AI does not answer, or refuses.
    """
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    for submitted in Api(location.project, location.region).jobs():
        rows.append((submitted.name, state_of(submitted), str(submitted.workers), age(submitted.created)))
    print_table(rows)


def state_of(submitted: SubmittedJob) -> str:
    """Returns the state of a job: waiting, starting, running, stopping, done, failed or cancelled."""
    return _STATES.get(submitted.state, submitted.state.lower())


def _follow(api: Api, submitted: SubmittedJob) -> None:
    """Prints the log of all workers, and each change of the job's state, until the job ends."""
    told = ""

    def is_over() -> bool:
        nonlocal told
        state = state_of(api.refresh(submitted))
        if state != told:
            told = state
            tell(f"job {submitted.name} is {state}")
        return state in _FINAL

    cloud_logging.follow(api, submitted, is_over=is_over)


def _outcome(ended: SubmittedJob) -> Outcome:
    """Returns how a job ended that is over."""
    state = state_of(ended)
    if state == "done":
        return Outcome(end="done")
    if _timed_out(ended):
        return Outcome(end="timed out")
    if state == "cancelled":
        return Outcome(end="cancelled")
    exit_code = job_exit_code([int(digits) for digits in _EXIT_CODE.findall(ended.reason)])
    return Outcome(end="failed", reason=ended.reason.rstrip(".") or ended.state, exit_code=exit_code)


def _timed_out(ended: SubmittedJob) -> bool:
    """Returns whether Vertex AI ended a job because it had reached its time limit."""
    if ended.status == _DEADLINE_EXCEEDED:
        return True
    return bool(ended.started and ended.ended and ended.timeout and (ended.ended - ended.started).total_seconds() >= ended.timeout)
