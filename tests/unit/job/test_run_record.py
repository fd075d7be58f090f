"""run.json: what is noted about each attempt at a job, and who may write it."""

import importlib.metadata
import json
import platform
import socket
import sys

import pytest
from etils import epath

from tests.support.clock import Clock
from trainer.errors import LostPeer
from trainer.job import run_record
from trainer.job.run_record import RunRecord


@pytest.fixture
def clock(monkeypatch):
    made = Clock(now=86_400.0)
    monkeypatch.setattr(run_record.time, "time", made.time)
    return made


@pytest.fixture
def begin(tmp_path, clock):
    def begin(check=lambda: None):
        return RunRecord(epath.Path(tmp_path / "run.json"), data_dir="data", versions={"tensorflow": "2"}, check=check)

    return begin


def attempts(tmp_path):
    return json.loads((tmp_path / "run.json").read_text())["attempts"]


def test_an_attempt_is_noted_when_it_begins(tmp_path, begin, monkeypatch):
    monkeypatch.setenv("POSTER_JOB_ID", "launch-7")
    monkeypatch.setattr(sys, "argv", ["trainer.task", "--seed=1"])
    begin()
    assert attempts(tmp_path) == [
        {
            "attempt": 1,
            "launched_as": "launch-7",
            "started": "1970-01-02T00:00:00Z",
            "host": socket.gethostname(),
            "command": ["trainer.task", "--seed=1"],
            "data_dir": "data",
            "python": platform.python_version(),
            "versions": {"poster-trainer": importlib.metadata.version("poster-trainer"), "tensorflow": "2"},
        }
    ]


def test_earlier_attempts_stay_and_facts_go_to_the_present_one(tmp_path, begin, clock):
    begin().note(workers=1)
    record = begin()
    record.note(workers=2)
    record.note(workers=3, device="CPU")
    clock.now += 12.34567
    record.mark("first_step")
    first, second = attempts(tmp_path)
    assert (first["attempt"], first["workers"]) == (1, 1)
    assert (second["attempt"], second["workers"], second["device"], second["first_step_after_s"]) == (2, 3, "CPU", 12.346)


def test_who_has_lost_the_directory_does_not_write(tmp_path, begin):
    begin()

    def lost():
        raise LostPeer("taken")

    with pytest.raises(LostPeer):
        begin(check=lost)
    assert len(attempts(tmp_path)) == 1
