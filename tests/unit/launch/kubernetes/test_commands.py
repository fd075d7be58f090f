"""The commands of launch for jobs on Kubernetes, with an imitated API."""

import dataclasses
import datetime
import re
from typing import Any

import pytest
import yaml

from launch.job import Job, Location
from launch.kubernetes import commands
from launch.kubernetes.api import NotFound, Pod
from launch.kubernetes.commands import JobState
from launch.outcome import JobFailed
from trainer.errors import LostService, Stopped, UserError

FLAGS = "--target=kubernetes --namespace=films"
GONE = NotFound("it does not exist")
POD = Pod(name="film-1-0-x", uid="u", index=0, created="2026-01-01", phase="Running", exit_code=None, waits_for="")


def job(**fields):
    arguments = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")
    defaults: dict[str, Any] = {"arguments": arguments, "image": "i", "name": "film", "workers": 2, "namespace": "films"}
    return Job(**(defaults | fields))


def workload(*conditions, name="film-1", **status):
    """Returns a Job with these conditions, each (type, reason, message)."""
    described = [{"type": kind, "status": "True", "reason": why, "message": text} for kind, why, text in conditions]
    return {
        "kind": "Job",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"completions": 2},
        "status": {"conditions": described, **status},
    }


class Api:
    """A cluster that keeps what it was asked for."""

    def __init__(self):
        self.namespace = "films"
        self.asked = []
        self.found = workload()
        self.listed = []
        self.running = []

    def submit(self, workload, service):
        self.asked.append(("submit", workload["kind"], service["kind"], workload["metadata"]["name"]))
        if isinstance(self.found, LostService):
            raise self.found

    def get(self, name):
        self.asked.append(("get", name))
        found = self.found.pop(0) if isinstance(self.found, list) else self.found
        if isinstance(found, Exception):
            raise found
        return found

    def delete(self, workload):
        self.asked.append(("delete", workload["metadata"]["name"]))

    def pods(self, name):
        return self.running

    def jobs(self):
        return self.listed


@pytest.fixture
def api(monkeypatch):
    api = Api()

    def connect(namespace):
        assert namespace == "films"
        return api

    monkeypatch.setattr(commands, "Api", connect)
    monkeypatch.setattr(commands.preflight, "check_paths", lambda job, *, is_remote: api.asked.append(("check", is_remote)))
    monkeypatch.setattr(commands.pod_logs, "follow", lambda api, name, *, several, is_over: api.asked.append(("follow", several)))
    return api


def events(api):
    return [event[0] for event in api.asked]


def test_a_spec_is_printed_with_its_warnings_on_stderr(capfd):
    commands.print_spec(job(env={"HF_TOKEN": "s3"}))
    out, err = capfd.readouterr()
    assert [each["kind"] for each in yaml.safe_load_all(out)] == ["Job", "Service"]
    assert err.startswith("launch: --env=HF_TOKEN=… can be read by everyone")


def test_a_run_checks_the_paths_submits_the_job_and_prints_its_name(api, capsys):
    commands.run(job(env={"HF_TOKEN": "s3"}), wait=False, run_preflight=True)
    assert events(api) == ["check", "submit"]
    assert api.asked[0] == ("check", True)
    assert api.asked[1][1:3] == ("Job", "Service")
    out, err = capsys.readouterr()
    name = out.strip()
    assert re.fullmatch("film-[0-9a-f]{8}", name)
    assert api.asked[1][3] == name
    assert "--env=HF_TOKEN=… can be read" in err
    assert f"launch: job {name} in the namespace films: 2 workers\n" in err
    assert f"follow it with python -m launch logs {name} {FLAGS}" in err


def test_a_run_without_checks_submits_at_once(api, capsys):
    commands.run(job(workers=1), wait=False, run_preflight=False)
    assert events(api) == ["submit"]
    assert "in the namespace films: 1 worker\n" in capsys.readouterr().err


def test_a_job_that_may_have_been_created_is_named(api):
    api.found = LostService("away")
    with pytest.raises(LostService, match=f"away; film-.* may have been created: cancel it with .* {FLAGS}"):
        commands.run(job(), wait=False, run_preflight=False)


def test_waiting_ends_as_the_job_ends(api, capsys):
    api.found = workload(("Complete", "", ""))
    commands.run(job(), wait=True, run_preflight=False)
    assert events(api) == ["submit", "follow", "get"]
    assert api.asked[1] == ("follow", True)
    assert capsys.readouterr().out == ""


def test_a_single_workers_lines_have_no_index(api):
    api.found = workload(("Complete", "", ""))
    commands.run(job(workers=1), wait=True, run_preflight=False)
    assert ("follow", False) in api.asked


def test_an_error_while_following_says_that_the_job_goes_on(api):
    api.found = UserError("no permission")
    with pytest.raises(UserError, match=f"no permission; the job goes on: follow it with .* {FLAGS}"):
        commands.run(job(), wait=True, run_preflight=False)


def test_an_outage_at_the_end_is_waited_for(api, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(commands.poll_until_answered.__globals__["time"], "sleep", slept.append)
    api.found = [LostService("away"), LostService("away"), workload(("Complete", "", ""))]
    commands.run(job(), wait=True, run_preflight=False)
    assert slept == [2.0, 2.0]


def pods(*codes):
    return [dataclasses.replace(POD, exit_code=code, phase="Failed" if code else "Running") for code in codes]


@pytest.mark.parametrize(
    ("found", "codes", "kind", "exit_code", "says"),
    [
        (GONE, (), Stopped, 143, "was cancelled (it no longer exists: it may also have ended days ago)"),
        (workload(("Failed", "PodFailurePolicy", "exit 2")), (75, 1), UserError, 2, "needs a change by the user (exit 2)"),
        (workload(("Failed", "FailJobSetFailurePolicyAction", "")), (), UserError, 2, "needs a change by the user"),
        (
            workload(("Failed", "MaxFailedIndexesExceeded", "too bad")),
            (2, 75),
            UserError,
            2,
            "needs a change by the user (too bad)",
        ),
        (
            workload(("Failed", "MaxFailedIndexesExceeded", "too bad")),
            (137, 75, None),
            JobFailed,
            137,
            "failed (too bad): see its output, or raise --restarts",
        ),
        (workload(("Failed", "BackoffLimitExceeded", "")), (), JobFailed, 1, "failed (BackoffLimitExceeded)"),
        (workload(("Failed", "DeadlineExceeded", "")), (143,), UserError, 2, "reached its --time_limit"),
        (
            workload(("Failed", "FailedJobs", "jobset failed due to DeadlineExceeded")),
            (143,),
            UserError,
            2,
            "reached its --time_limit",
        ),
    ],
)
def test_the_command_ends_as_the_job_ended(api, found, codes, kind, exit_code, says):
    api.found, api.running = found, pods(*codes)
    with pytest.raises(kind) as caught:
        commands.run(job(), wait=True, run_preflight=False)
    assert (type(caught.value), caught.value.exit_code) == (kind, exit_code)
    assert says in str(caught.value)
    assert "the job goes on" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (workload(), JobState("starting")),
        ({"metadata": {}}, JobState("starting")),
        (workload(ready=0), JobState("starting")),
        (workload(ready=1), JobState("running")),
        (workload(replicatedJobsStatus=[{"ready": 0}, {}]), JobState("starting")),
        (workload(replicatedJobsStatus=[{"ready": 1}]), JobState("running")),
        (workload(("Complete", "", "")), JobState("done")),
        (workload(("Completed", "", "")), JobState("done")),
        (workload(("Failed", "A", "b")), JobState("failed", "A", "b")),
        (workload(("Failed", "A", "")), JobState("failed", "A", "A")),
        (workload(("FailureTarget", "A", "b")), JobState("stopping", "A", "b")),
        (workload(("FailureTarget", "A", "b"), ("Failed", "C", "d")), JobState("failed", "C", "d")),
        (
            workload(("Suspended", "", "")),
            JobState("waiting", reason="it is suspended, for example by a queue that has no capacity yet"),
        ),
    ],
)
def test_the_conditions_of_a_job_are_its_state(found, state):
    assert commands.state_of(found) == state
    assert state.is_final == (state.word in ("done", "failed"))


def test_a_condition_that_no_longer_holds_is_no_state():
    found = workload(("Suspended", "", ""), ready=1)
    found["status"]["conditions"][0]["status"] = "False"
    assert commands.state_of(found).word == "running"


def test_a_job_that_is_being_deleted_is_stopping():
    found = workload(ready=1)
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert commands.state_of(found).word == "stopping"


def test_status_shows_each_pod_by_worker_and_age(api, capsys):
    api.found = workload(("Failed", "PodFailurePolicy", "exit code 2"))
    api.running = [
        dataclasses.replace(POD, index=1, name="b", created="2026-01-02", phase="Pending", waits_for="ContainerCreating"),
        dataclasses.replace(POD, index=1, name="a", created="2026-01-01", phase="Failed", exit_code=75),
        dataclasses.replace(POD, index=0, name="c", created="2026-01-03", phase="Succeeded", exit_code=0),
    ]
    commands.status("film-1", Location(namespace="films"))
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == "film-1  failed: exit code 2"
    assert columns.split() == ["WORKER", "POD", "PHASE", "EXIT"]
    assert [row.split() for row in rows] == [
        ["0", "c", "Succeeded", "0"],
        ["1", "a", "Failed", "75"],
        ["1", "b", "Pending", "ContainerCreating"],
    ]


def test_status_of_a_job_that_runs_has_no_reason(api, capsys):
    api.found = workload(ready=2)
    commands.status("film-1", Location(namespace="films"))
    assert capsys.readouterr().out.splitlines()[0] == "film-1  running"


def test_cancel_deletes_the_job(api, capsys):
    commands.cancel("film-1", Location(namespace="films"))
    assert api.asked == [("get", "film-1"), ("delete", "film-1")]
    assert "launch: job film-1 ends as soon as its workers have saved their state" in capsys.readouterr().err


@pytest.mark.parametrize("found", [workload(("Complete", "", "")), workload(("Failed", "", "")), GONE])
def test_the_log_is_followed_until_the_job_is_over(api, monkeypatch, found):
    answers = []

    def follow(_, name, *, several, is_over):
        answers.append(is_over())
        api.found = found
        answers.append(is_over())

    monkeypatch.setattr(commands.pod_logs, "follow", follow)
    commands.logs("film-1", Location(namespace="films"))
    assert answers == [False, True]


def test_the_list_shows_each_job_with_its_state_and_age(api, capsys):
    jobset = workload(name="film-2", ready=1)
    jobset |= {"kind": "JobSet", "spec": {"replicatedJobs": [{"template": {"spec": {"completions": 4}}}]}}
    jobset["metadata"]["creationTimestamp"] = datetime.datetime.now(datetime.UTC).isoformat()
    api.listed = [workload(("Complete", "", "")), jobset]
    commands.list_jobs(Location(namespace="films"))
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert rows[1][:3] == ["film-1", "done", "2"]
    assert rows[2] == ["film-2", "running", "4", "0s"]
