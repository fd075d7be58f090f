"""The commands of launch for jobs on Kubernetes: run, status, logs, cancel, list."""

import dataclasses
import datetime
from typing import Any

from launch import preflight
from launch.console import age, print_table, tell, write
from launch.following import announce, following, poll_until_answered, submitting
from launch.job import Job, Location
from launch.kubernetes import logs as pod_logs
from launch.kubernetes import spec
from launch.kubernetes.api import Api, NotFound, Pod
from launch.outcome import Outcome, job_exit_code
from trainer.errors import EXIT_USER_ERROR


def print_spec(job: Job) -> None:
    """Prints the Kubernetes objects of a job as a YAML stream; contacts no cluster."""
    objects = spec.specify(job, name=job.new_name())
    for note in spec.notes(job):
        tell(note)
    write(spec.to_yaml(objects).encode())


def run(job: Job, *, wait: bool, run_preflight: bool) -> None:
    """Starts a job on Kubernetes, and prints its name; see `launch.target.Target.run`."""
    name = job.new_name()
    workload, service = spec.specify(job, name=name)
    for note in spec.notes(job):
        tell(note)
    api = Api(job.namespace)
    if run_preflight:
        preflight.check_paths(job, is_remote=True)
    location_flags = f"--target=kubernetes --namespace={api.namespace}"
    with submitting(name, location_flags):
        api.submit(workload, service)
    tell(f"job {name} in the namespace {api.namespace}: {job.workers} worker{'s' if job.workers > 1 else ''}")
    if not wait:
        announce(name, location_flags)
        return
    with following(name, location_flags):
        _follow(api, workload)
        outcome = poll_until_answered(lambda: _outcome(api, name), interval=pod_logs.POLL)
    outcome.raise_unless_done(name)


def status(name: str, location: Location) -> None:
    """Prints the state of a job and of each of its pods.

    Args:
      name: the job's name.
      location: the namespace of the job.

    Raises:
      Ended: the cluster does not answer, or refuses.
    """
    api = Api(location.namespace)
    workload = api.get(name)
    state = state_of(workload)
    print(f"{name}  {state.word}{f': {state.reason}' if state.reason else ''}")
    rows = [("WORKER", "POD", "PHASE", "EXIT", "")]
    for pod in sorted(api.pods(name), key=lambda each: (each.index, each.created)):
        code = "" if pod.exit_code is None else str(pod.exit_code)
        rows.append((str(pod.index), pod.name, pod.phase, code, pod.waits_for))
    print_table(rows)


def logs(name: str, location: Location) -> None:
    """Prints the log of all workers from its beginning until the job ends.

    Args:
      name: the job's name.
      location: the namespace of the job.

    Raises:
      Ended: the log cannot be read.
    """
    api = Api(location.namespace)
    _follow(api, api.get(name))


def cancel(name: str, location: Location) -> None:
    """Deletes a job; its workers save their state before they end.

    Args:
      name: the job's name.
      location: the namespace of the job.

    Raises:
      Ended: the job does not exist, or the cluster does not delete it.
    """
    api = Api(location.namespace)
    api.delete(api.get(name))
    tell(f"job {name} ends as soon as its workers have saved their state; the same command resumes from there")


def list_jobs(location: Location) -> None:
    """Prints the jobs of a namespace, by name.

    Args:
      location: the namespace.

    Raises:
      Ended: the cluster does not answer, or refuses.
    """
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    for workload in Api(location.namespace).jobs():
        metadata = workload["metadata"]
        created = datetime.datetime.fromisoformat(metadata["creationTimestamp"])
        workers = str(spec.job_spec(workload)["completions"])
        rows.append((metadata["name"], state_of(workload).word, workers, age(created)))
    print_table(rows)


@dataclasses.dataclass(frozen=True)
class JobState:
    """The state of a Job or JobSet.

    Attributes:
      word: waiting, starting, running, stopping, done or failed.
      cause: the cluster's one-word reason for a failure, or "".
      reason: an explanation in words, or "".
    """

    word: str
    cause: str = ""
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the state can no longer change."""
        return self.word in ("done", "failed")


def state_of(workload: dict[str, Any]) -> JobState:
    """Returns the state of a Job or JobSet, from the conditions that its controller has set.

    Args:
      workload: the object as the cluster returned it.
    """
    status = workload.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", []) if each["status"] == "True"}
    for name in ("Complete", "Completed"):  # The condition of a Job, and of a JobSet.
        if name in conditions:
            return JobState("done")
    for name in ("Failed", "FailureTarget"):  # The second is set while the job's pods are still ending.
        if name in conditions:
            condition = conditions[name]
            word = "failed" if name == "Failed" else "stopping"
            return JobState(word, condition.get("reason", ""), condition.get("message", "") or condition.get("reason", ""))
    if workload["metadata"].get("deletionTimestamp"):
        return JobState("stopping")
    if "Suspended" in conditions:
        return JobState("waiting", reason="it is suspended, for example by a queue that has no capacity yet")
    active = status.get("ready") or any(each.get("ready") for each in status.get("replicatedJobsStatus", []))
    return JobState("running" if active else "starting")


def _follow(api: Api, workload: dict[str, Any]) -> None:
    """Prints the log of all workers until the job ends."""
    name = workload["metadata"]["name"]

    def is_over() -> bool:
        try:
            return state_of(api.get(name)).is_final
        except NotFound:  # It was cancelled.
            return True

    several = spec.job_spec(workload)["completions"] > 1
    pod_logs.follow(api, name, several=several, is_over=is_over)


def _outcome(api: Api, name: str) -> Outcome:
    """Returns how a job ended that is over."""
    try:
        state = state_of(api.get(name))
    except NotFound:
        return Outcome(end="cancelled", reason="it no longer exists: it may also have ended days ago")
    if state.word == "done":
        return Outcome(end="done")
    if "DeadlineExceeded" in state.cause or "DeadlineExceeded" in state.reason:
        return Outcome(end="timed out")
    return Outcome(
        end="failed",
        reason=state.reason or state.cause,
        exit_code=_exit_code(api.pods(name), state),
        remedy="see its output, or raise --restarts",
    )


def _exit_code(pods: list[Pod], state: JobState) -> int:
    """Returns the exit code of a failed job: 2 if a worker exited 2, else the code of the last crash."""
    if state.cause in ("PodFailurePolicy", "FailJobSetFailurePolicyAction"):
        return EXIT_USER_ERROR
    return job_exit_code([pod.exit_code for pod in pods if pod.exit_code is not None])
