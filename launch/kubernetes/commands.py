"""What launch does with jobs on Kubernetes: run, status, logs, cancel, list."""

import dataclasses
import datetime
import time
from typing import Any

from launch import preflight
from launch.console import JobFailed, Patience, age, following, job_code, print_table, submitting, tell, write
from launch.job import Job, Place
from launch.kubernetes import logs as kubernetes_logs
from launch.kubernetes import spec
from launch.kubernetes.api import Api, NotFound, Pod
from trainer.errors import EXIT_USER_ERROR, Stopped, UserError


def print_spec(job: Job) -> None:
    """Prints the objects that a job becomes as a YAML stream; asks no cluster."""
    objects = spec.specify(job, name=job.new_name())
    for note in spec.notes(job):
        tell(note)
    write(spec.to_yaml(objects).encode())


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
    workload, service = spec.specify(job, name=name)
    for note in spec.notes(job):
        tell(note)
    api = Api(job.namespace)
    if look:
        preflight.check_places(job, is_remote=True)
    place = f"--target=kubernetes --namespace={api.namespace}"
    with submitting(name, place):
        api.submit(workload, service)
    tell(f"job {name} in the namespace {api.namespace}: {job.workers} worker{'s' if job.workers > 1 else ''}")
    if not wait:
        tell(f"python -m launch logs {name} {place} follows it, status, cancel and list look after it")
        print(name)
        return
    with following(name, place):
        _follow(api, workload)
        found, pods = _last(api, name)
    _end(name, found, pods)


def status(name: str, place: Place) -> None:
    """Prints how a job and each of its pods are.

    Raises:
      Ended: the cluster does not say.
    """
    api = Api(place.namespace)
    workload = api.get(name)
    state = state_of(workload)
    print(f"{name}  {state.word}{f': {state.reason}' if state.reason else ''}")
    rows = [("WORKER", "POD", "PHASE", "EXIT", "")]
    for pod in sorted(api.pods(name), key=lambda each: (each.index, each.created)):
        code = "" if pod.exit_code is None else str(pod.exit_code)
        rows.append((str(pod.index), pod.name, pod.phase, code, pod.waits_for))
    print_table(rows)


def logs(name: str, place: Place) -> None:
    """Prints what all workers have written and write, until the job is over.

    Raises:
      Ended: the job cannot be followed.
    """
    api = Api(place.namespace)
    _follow(api, api.get(name))


def cancel(name: str, place: Place) -> None:
    """Ends a job: its workers save their state, and its objects go.

    Raises:
      Ended: the cluster does not do it.
    """
    api = Api(place.namespace)
    api.delete(api.get(name))
    tell(f"job {name} ends as soon as its workers have saved their state; the command that started it goes on from there")


def list_jobs(place: Place) -> None:
    """Prints the jobs of a namespace.

    Raises:
      Ended: the cluster does not say.
    """
    rows = [("NAME", "STATE", "WORKERS", "AGE")]
    for workload in Api(place.namespace).jobs():
        metadata = workload["metadata"]
        workers = str(spec.child(workload)["completions"])
        rows.append(
            (
                metadata["name"],
                state_of(workload).word,
                workers,
                age(datetime.datetime.fromisoformat(metadata["creationTimestamp"])),
            )
        )
    print_table(rows)


@dataclasses.dataclass(frozen=True)
class State:
    """How a job is.

    Attributes:
      word: waiting, starting, running, stopping, done or failed.
      cause: the cluster's word for why it failed.
      reason: the same in a sentence, or "".
    """

    word: str
    cause: str = ""
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether it stays so."""
        return self.word in ("done", "failed")


def state_of(workload: dict[str, Any]) -> State:
    """How a Job or JobSet is, by what its controller says."""
    status = workload.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", []) if each["status"] == "True"}
    for name in ("Complete", "Completed"):  # A Job's word, and a JobSet's.
        if name in conditions:
            return State("done")
    for name in ("Failed", "FailureTarget"):  # The second while its pods are still ending.
        if name in conditions:
            condition = conditions[name]
            word = "failed" if name == "Failed" else "stopping"
            return State(word, condition.get("reason", ""), condition.get("message", "") or condition.get("reason", ""))
    if workload["metadata"].get("deletionTimestamp"):
        return State("stopping")
    if "Suspended" in conditions:
        return State("waiting", reason="it is suspended, as by a queue that has no room for it yet")
    active = status.get("ready") or any(each.get("ready") for each in status.get("replicatedJobsStatus", []))
    return State("running" if active else "starting")


def _follow(api: Api, workload: dict[str, Any]) -> None:
    name = workload["metadata"]["name"]

    def is_over() -> bool:
        try:
            return state_of(api.get(name)).is_final
        except NotFound:  # Cancelled.
            return True

    several = spec.child(workload)["completions"] > 1
    kubernetes_logs.follow(api, name, several=several, is_over=is_over)


def _last(api: Api, name: str) -> tuple[dict[str, Any], list[Pod]]:
    """A job that is over, and its pods; nothing where it is gone."""
    patient = Patience()
    while (found := patient.ask(lambda: _find(api, name))) is None:
        time.sleep(kubernetes_logs.POLL)
    return found, patient.ask(lambda: api.pods(name)) or []


def _end(name: str, found: dict[str, Any], pods: list[Pod]) -> None:
    """Ends as a job did that is over.

    Raises:
      Ended: not well.
      Stopped: it was cancelled.
    """
    if not found:
        raise Stopped(f"job {name} is gone: it was cancelled, or ended days ago; the command that started it goes on from there")
    state = state_of(found)
    if state.word == "done":
        return
    if "DeadlineExceeded" in state.cause or "DeadlineExceeded" in state.reason:
        raise UserError(f"job {name} was not done within its --time_limit: give more; it goes on from its last backup")
    code = exit_code(pods, state)
    if code == EXIT_USER_ERROR:
        raise UserError(f"job {name} cannot go on until something is changed: its worker's last line says what ({state.reason})")
    raise JobFailed(f"job {name} failed: {state.reason or state.cause}: see its output, or raise --restarts", code)


def _find(api: Api, name: str) -> dict[str, Any]:
    """A job, or nothing where there is none."""
    try:
        return api.get(name)
    except NotFound:
        return {}


def exit_code(pods: list[Pod], state: State) -> int:
    """The exit code that a failed job's comes to: 2 where a worker says that a restart is of no use, else its last crash's."""
    if state.cause in ("PodFailurePolicy", "FailJobSetFailurePolicyAction"):
        return EXIT_USER_ERROR
    return job_code([pod.exit_code for pod in pods if pod.exit_code is not None])
