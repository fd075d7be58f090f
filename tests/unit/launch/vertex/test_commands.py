"""The commands of launch for jobs on Vertex AI, with an imitated API."""

import dataclasses
import datetime
import json
import re
from typing import Any

import pytest

from launch.job import Job, Location
from launch.outcome import JobFailed
from launch.vertex import commands
from launch.vertex.api import SubmittedJob
from trainer.errors import LostService, Stopped, UserError

FLAGS = "--target=vertex --project=films --region=europe-west4"
HERE = Location(project="films", region="europe-west4")
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
EXIT = "The replica {} exited with a non-zero status of {}. Termination reason: Error."
QUEUED = SubmittedJob(
    name="film-1",
    resource="projects/1/locations/europe-west4/customJobs/77",
    state="QUEUED",
    reason="",
    status=0,
    workers=2,
    machine="e2-standard-4",
    timeout=60.0,
    created=BEGAN,
    started=None,
    ended=None,
)


def job(**fields):
    arguments = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")
    defaults: dict[str, Any] = {"arguments": arguments, "image": "i", "name": "film", "workers": 2}
    return Job(**(defaults | {"project": "films", "region": "europe-west4"} | fields))


def state(word, **fields):
    return dataclasses.replace(QUEUED, state=word, **fields)


class Api:
    """Vertex AI; it keeps what it was asked for."""

    def __init__(self):
        self.project, self.region = "films", "europe-west4"
        self.asked = []
        self.found = [QUEUED]  # The last one stays.

    def submit(self, spec):
        self.asked.append(("submit", spec["displayName"]))
        return dataclasses.replace(self._next(), name=spec["displayName"])

    def get(self, name):
        self.asked.append(("get", name))
        return self._next()

    def refresh(self, submitted):
        self.asked.append(("refresh", submitted.name))
        return self._next()

    def cancel(self, submitted):
        self.asked.append(("cancel", submitted.name))

    def jobs(self):
        return self.found

    def _next(self):
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def api(monkeypatch):
    api = Api()

    def connect(project, region):
        assert (project, region) == ("films", "europe-west4")
        return api

    monkeypatch.setattr(commands, "Api", connect)
    monkeypatch.setattr(commands.preflight, "check_paths", lambda job, *, is_remote: api.asked.append(("check", is_remote)))
    monkeypatch.setattr(commands.cloud_logging, "follow", lambda api, job, *, is_over: api.asked.append(("follow", job.id)))
    return api


def test_a_spec_is_printed_with_its_warnings_on_stderr(capfd):
    commands.print_spec(job(env={"HF_TOKEN": "s3"}, labels={"team": "films"}, arguments=(*job().arguments, "--cache=é")))
    out, err = capfd.readouterr()
    assert json.loads(out)["labels"]["team"] == "films"
    assert "é" in out
    assert out.endswith("}\n")
    assert "\n  " in out  # For people.
    assert err.startswith("launch: --env=HF_TOKEN=… can be read by everyone")


def test_a_run_checks_the_paths_submits_the_job_and_prints_its_name(api, capsys):
    commands.run(job(env={"HF_TOKEN": "s3"}), wait=False, run_preflight=True)
    (check, (submit, name)) = api.asked
    assert (check, submit) == (("check", True), "submit")
    assert re.fullmatch("film-[0-9a-f]{8}", name)
    out, err = capsys.readouterr()
    assert out == f"{name}\n"
    assert "--env=HF_TOKEN=… can be read" in err
    assert f"launch: job {name}, number 77, in europe-west4 of the project films: 2 workers on e2-standard-4\n" in err
    assert f"follow it with python -m launch logs {name} {FLAGS}" in err


def test_a_run_without_checks_submits_at_once(api, capsys):
    commands.run(job(workers=1), wait=False, run_preflight=False)
    assert [event for event, _ in api.asked] == ["submit"]
    assert ": 1 worker on e2-standard-4\n" in capsys.readouterr().err


def test_a_job_that_may_have_been_created_is_named(api):
    api.found = [LostService("away")]
    with pytest.raises(LostService, match=f"away; film-.* may have been created: cancel it with .* {FLAGS}"):
        commands.run(job(), wait=False, run_preflight=False)


def test_waiting_ends_as_the_job_ends(api, capsys, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(commands.poll_until_answered.__globals__["time"], "sleep", slept.append)
    api.found = [QUEUED, LostService("away"), state("SUCCEEDED")]
    commands.run(job(), wait=True, run_preflight=False)
    assert [event for event, _ in api.asked] == ["submit", "follow", "refresh", "refresh"]
    assert slept == [5.0]
    assert capsys.readouterr().out == ""


def test_an_error_while_following_says_that_the_job_goes_on(api):
    api.found = [QUEUED, UserError("no permission")]
    with pytest.raises(UserError, match=f"no permission; the job goes on: follow it with .* {FLAGS}"):
        commands.run(job(), wait=True, run_preflight=False)


def ran(seconds):
    return {"started": BEGAN, "ended": BEGAN + datetime.timedelta(seconds=seconds)}


@pytest.mark.parametrize(
    ("ended", "kind", "exit_code", "says"),
    [
        (state("FAILED", reason=EXIT.format("workerpool0-0", 2)), UserError, 2, "needs a change by the user"),
        (
            state("FAILED", reason=f"{EXIT.format('workerpool0-0', 137)} {EXIT.format('workerpool1-0', 75)}"),
            JobFailed,
            137,
            "failed (The replica workerpool0-0 exited with a non-zero status of 137",
        ),
        (state("FAILED", reason="Internal error."), JobFailed, 1, "failed (Internal error): see its output"),
        (state("EXPIRED"), JobFailed, 1, "failed (EXPIRED)"),
        (state("PARTIALLY_SUCCEEDED"), JobFailed, 1, "failed (PARTIALLY_SUCCEEDED)"),
        (state("CANCELLED", reason="by user"), Stopped, 143, "was cancelled; the same command"),
        (state("FAILED", reason="late", status=4), UserError, 2, "reached its --time_limit"),
        (state("FAILED", reason="late", status=3), JobFailed, 1, "failed (late)"),
        # Vertex AI does not say why, but the job ran for exactly its limit, or longer.
        (state("CANCELLED", **ran(60)), UserError, 2, "reached its --time_limit"),
        (state("FAILED", **ran(61)), UserError, 2, "reached its --time_limit"),
        (state("CANCELLED", **ran(59.9)), Stopped, 143, "was cancelled"),
        (state("FAILED", timeout=0.0, **ran(61)), JobFailed, 1, "failed (FAILED)"),
        (state("FAILED", **ran(61) | {"started": None}), JobFailed, 1, "failed (FAILED)"),
        (state("FAILED", **ran(61) | {"ended": None}), JobFailed, 1, "failed (FAILED)"),
    ],
)
def test_the_command_ends_as_the_job_ended(api, ended, kind, exit_code, says):
    api.found = [QUEUED, ended]
    with pytest.raises(kind) as caught:
        commands.run(job(), wait=True, run_preflight=False)
    assert (type(caught.value), caught.value.exit_code) == (kind, exit_code)
    assert says in str(caught.value)
    assert "the job goes on" not in str(caught.value)


def test_a_job_that_was_done_when_its_limit_passed_is_done(api):
    api.found = [QUEUED, state("SUCCEEDED", **ran(61))]
    commands.run(job(), wait=True, run_preflight=False)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("UNSPECIFIED", "waiting"),
        ("QUEUED", "waiting"),
        ("PAUSED", "waiting"),
        ("PENDING", "starting"),
        ("RUNNING", "running"),
        ("UPDATING", "running"),
        ("CANCELLING", "stopping"),
        ("SUCCEEDED", "done"),
        ("FAILED", "failed"),
        ("EXPIRED", "failed"),
        ("CANCELLED", "cancelled"),
        ("NEW_ONE", "new_one"),
    ],
)
def test_a_state_has_the_word_of_all_targets(word, told):
    assert commands.state_of(state(word)) == told


def test_each_change_of_the_state_is_told_once_until_the_job_ends(api, capsys, monkeypatch):
    answers: list[bool] = []

    def follow(_, submitted, *, is_over):
        answers.extend(is_over() for _ in range(6))

    monkeypatch.setattr(commands.cloud_logging, "follow", follow)
    words = ("QUEUED", "QUEUED", "PENDING", "RUNNING", "RUNNING", "UPDATING", "FAILED")
    api.found = [state(word) for word in words]
    commands.logs("film-1", HERE)
    assert answers == [False, False, False, False, False, True]
    assert capsys.readouterr().err.splitlines() == [
        f"launch: job film-1 is {word}" for word in ("waiting", "starting", "running", "failed")
    ]


@pytest.mark.parametrize("word", ["SUCCEEDED", "CANCELLED", "EXPIRED"])
def test_a_job_that_has_ended_is_over(api, monkeypatch, word):
    answers: list[bool] = []
    monkeypatch.setattr(commands.cloud_logging, "follow", lambda _, submitted, *, is_over: answers.append(is_over()))
    api.found = [state(word)]
    commands.logs("film-1", HERE)
    assert answers == [True]


def test_status_shows_the_job_and_its_page(api, capsys):
    now = datetime.datetime.now(datetime.UTC)
    api.found = [state("RUNNING", created=now - datetime.timedelta(hours=5), started=now - datetime.timedelta(minutes=3))]
    commands.status("film-1", HERE)
    head, columns, row, page = capsys.readouterr().out.splitlines()
    assert head == "film-1  running"
    assert columns.split() == ["NUMBER", "WORKERS", "MACHINE", "CREATED", "STARTED", "ENDED"]
    assert row.split() == ["77", "2", "e2-standard-4", "5h", "3m"]
    assert page == "https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/77/cpu?project=films"
    api.found = [state("FAILED", reason="too bad", **ran(7))]
    commands.status("film-1", HERE)
    assert capsys.readouterr().out.splitlines()[0] == "film-1  failed: too bad"


def test_cancel_stops_a_job_that_has_not_ended(api, capsys):
    for word in ("QUEUED", "RUNNING"):
        api.found, api.asked = [state(word)], []
        commands.cancel("film-1", HERE)
        assert api.asked == [("get", "film-1"), ("cancel", "film-1")]
        assert "launch: job film-1 ends as soon as Vertex AI has stopped its workers" in capsys.readouterr().err
    for word, told in (("SUCCEEDED", "done"), ("FAILED", "failed"), ("CANCELLED", "cancelled")):
        api.found, api.asked = [state(word)], []
        with pytest.raises(UserError, match=rf"job film-1 has ended already \({told}\): cancel only a job that is still running"):
            commands.cancel("film-1", HERE)
        assert api.asked == [("get", "film-1")]


def test_the_list_shows_each_job_with_its_state_and_age(api, capsys):
    created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    api.found = [state("RUNNING", created=created), state("FAILED", name="film-0", workers=1, created=created)]
    commands.list_jobs(HERE)
    assert [row.split() for row in capsys.readouterr().out.splitlines()] == [
        ["NAME", "STATE", "WORKERS", "AGE"],
        ["film-1", "running", "2", "3d"],
        ["film-0", "failed", "1", "3d"],
    ]
