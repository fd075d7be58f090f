"""The checks before a job starts: their order, and what of them is told."""

import types
from typing import Any

import pytest

from launch import preflight
from launch.job import Job
from trainer.dataset import manifest, training_order
from trainer.errors import LostService, UserError
from trainer.job import job_dir, lock

BUCKETS = ("--data_dir=gs://films/d", "--job_dir=/gcs/films/j")


def job(*arguments, paths=BUCKETS, **fields):
    return Job(arguments=(*paths, *arguments), **fields)


class Directory:
    """A data set and a job directory."""

    def __init__(self, monkeypatch, *, warning="", is_finished=False):
        self.asked: list[Any] = []
        self._warning, self._is_finished = warning, is_finished
        self.path, self.lock_path = "gs://films/j", "gs://films/j/LOCK.json"
        monkeypatch.setattr(manifest, "load", self._load)
        monkeypatch.setattr(training_order, "plan", self._plan)
        monkeypatch.setattr(job_dir, "describe", self._describe)
        monkeypatch.setattr(lock, "check_free", lambda path: self.asked.append(("free", path)))

    def _load(self, path):
        self.asked.append(("load", path))
        return types.SimpleNamespace(path=path)

    def _plan(self, config, dataset, *, workers):
        self.asked.append(("plan", dataset.path, workers))
        return types.SimpleNamespace(warning=lambda count: f"{self._warning} {count}" if self._warning else "")

    def _describe(self, config, dataset):
        self.asked.append(("describe", config.job_dir, dataset.path))
        return self

    def check_resumable(self):
        self.asked.append("resumable")

    def is_finished(self):
        return self._is_finished


def test_a_batch_must_divide_among_the_workers():
    for is_remote in (True, False):
        preflight.check_description(job("--batch_size=12", workers=3), is_remote=is_remote)
        with pytest.raises(UserError, match="--batch_size=64 does not divide among 3 workers: choose a multiple of 3"):
            preflight.check_description(job("--batch_size=64", workers=3), is_remote=is_remote)


def test_a_batch_must_divide_among_the_devices_of_remote_workers():
    fields = {"workers": 3, "accelerator": "nvidia-l4:4"}
    preflight.check_description(job("--batch_size=24", **fields), is_remote=True)
    with pytest.raises(UserError, match="--batch_size=30 does not divide among 12 replicas"):
        preflight.check_description(job("--batch_size=30", **fields), is_remote=True)
    preflight.check_description(job("--batch_size=30", **fields), is_remote=False)
    preflight.check_description(job("--batch_size=30", "--strategy=one_device", accelerator="nvidia-l4:4"), is_remote=True)
    preflight.check_description(job("--batch_size=30", workers=3), is_remote=True)


def test_a_tpu_strategy_needs_a_tpu_on_other_machines():
    with pytest.raises(UserError, match="--strategy=tpu needs a TPU: add --accelerator, such as tpu-v5-lite-podslice:4"):
        preflight.check_description(job("--strategy=tpu"), is_remote=True)
    preflight.check_description(job("--strategy=tpu"), is_remote=False)
    preflight.check_description(job("--strategy=tpu", accelerator="tpu-v4-podslice", workers=1), is_remote=True)


def test_buckets_are_checked_where_the_launcher_can_read_them(monkeypatch, capsys):
    directory = Directory(monkeypatch)
    preflight.check_paths(job(workers=2), is_remote=True)
    assert directory.asked == [
        ("load", "gs://films/d"),
        ("plan", "gs://films/d", 2),
        ("describe", "gs://films/j", "gs://films/d"),
        ("free", "gs://films/j/LOCK.json"),
        "resumable",
    ]
    assert capsys.readouterr().err == "launch: checking gs://films/d and gs://films/j\n"


def test_local_paths_are_checked_as_they_are(monkeypatch, capsys):
    directory = Directory(monkeypatch)
    preflight.check_paths(job(paths=("--data_dir=d", "--job_dir=/gcs/films/j")), is_remote=False)
    assert directory.asked[0] == ("load", "d")
    assert ("describe", "/gcs/films/j", "d") in directory.asked
    assert capsys.readouterr().err == ""


def test_a_job_that_begins_anew_need_not_fit_what_is_there(monkeypatch, capsys):
    directory = Directory(monkeypatch, is_finished=True)
    preflight.check_paths(job("--fresh"), is_remote=False)
    assert directory.asked[-1] == ("free", "gs://films/j/LOCK.json")
    assert capsys.readouterr().err == ""


def test_what_the_user_should_know_is_told(monkeypatch, capsys):
    Directory(monkeypatch, warning="the shards do not divide among", is_finished=True)
    preflight.check_paths(job(workers=2), is_remote=False)
    assert capsys.readouterr().err.splitlines() == [
        "launch: gs://films/d: the shards do not divide among 2",
        "launch: gs://films/j holds a finished job: the workers will exit at once",
    ]


@pytest.mark.parametrize("kind", [UserError, LostService])
def test_an_error_about_a_bucket_says_how_to_skip_the_checks(monkeypatch, kind):
    Directory(monkeypatch)

    def fail(_):
        raise kind("it cannot be read")

    monkeypatch.setattr(manifest, "load", fail)
    with pytest.raises(kind) as remote:
        preflight.check_paths(job(), is_remote=True)
    assert str(remote.value) == "it cannot be read (if the workers can read what you cannot, use --skip_preflight)"
    with pytest.raises(kind) as local:
        preflight.check_paths(job(), is_remote=False)
    assert str(local.value) == "it cannot be read"
