"""A job directory: which job it belongs to, whether that is finished, and when it may be resumed."""

import errno
import json
import logging
import os
import socket
from pathlib import Path

import pytest
from etils import epath

from tests.support import drawn
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.job import job_dir
from trainer.job.run_record import RunRecord


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=8, validation=2, test=2, shard_count=1)


@pytest.fixture
def describe(tmp_path, dataset):
    def describe(**changes):
        job = job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / "job"), **changes), dataset)
        job.make()
        return job

    return describe


def begin(job):
    job.check_resumable()
    job.begin()


def test_the_same_job_is_resumed_with_more_epochs_or_other_logging(describe):
    begin(describe(epochs=2))
    begin(describe(epochs=2))
    longer = describe(epochs=9, log_format="json", strategy="one_device")
    begin(longer)
    assert json.loads((longer.path / "config.json").read_text())["epochs"] == 9


def test_a_job_that_goes_on_keeps_its_config_as_it_is(describe, monkeypatch):
    begin(describe())
    monkeypatch.setattr(job_dir.files, "write_json", lambda path, value: pytest.fail(f"wrote {path}"))
    begin(describe())


def test_a_job_is_not_made_shorter(describe):
    begin(describe(epochs=3))
    describe(epochs=3).check_resumable()
    with pytest.raises(UserError, match=r"--epochs=2 is less than the 3 .* --fresh"):
        describe(epochs=2).check_resumable()


def test_another_job_is_refused_with_every_difference(describe):
    begin(describe())
    with pytest.raises(UserError, match=r"holds a job with batch_size=64 \(not 32\), seed=0 \(not 1\): .*--fresh"):
        describe(batch_size=32, seed=1).check_resumable()


def test_options_of_fine_tuning_do_not_matter_to_a_job_without_weights(describe):
    job = describe()
    begin(job)
    described = json.loads((job.path / "config.json").read_text())
    (job.path / "config.json").write_text(json.dumps(described | {"freeze_epochs": 2.0, "backbone_rate": 0.5}))
    describe().check_resumable()
    with pytest.raises(UserError, match=r"weights=none \(not imagenet\)"):
        describe(model="resnet50_v2", weights="imagenet").check_resumable()


def test_a_pretrained_job_with_another_rate_is_another_job(describe):
    begin(describe(model="resnet50_v2", weights="imagenet"))
    with pytest.raises(UserError, match=r"holds a job with backbone_rate=0.1 \(not 0.5\):"):
        describe(model="resnet50_v2", weights="imagenet", backbone_rate=0.5).check_resumable()


def test_other_data_are_another_job(describe, tmp_path):
    begin(describe())
    other = drawn.dataset(tmp_path, train=9, validation=2, test=2, shard_count=1)
    with pytest.raises(UserError, match=r"holds a job with data=[0-9a-f]{12} \(not [0-9a-f]{12}\): choose"):
        job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / "job")), other).check_resumable()


def test_files_without_a_config_are_refused(describe):
    job = describe()
    job.fail("a shard is damaged")
    job.check_resumable()
    for name in ("model", "evaluation-train"):
        (job.path / name).mkdir()
    with pytest.raises(UserError, match=r"no config.json but holds evaluation-train, model: choose another --job_dir, or move"):
        job.check_resumable()


def test_a_damaged_config_is_named(describe):
    job = describe()
    (job.path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged \(.*\): start anew with --fresh, or in another --job_dir"):
        job.check_resumable()
    (job.path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json is damaged \(it is not a JSON object\)"):
        job.check_resumable()


def test_moving_aside_keeps_everything(describe):
    job = describe()
    for seed in (1, 2):
        begin(describe(seed=seed))
        (job.path / "checkpoints").mkdir()
        job.move_aside()
    assert json.loads((job.path / "old-2" / "config.json").read_text())["seed"] == 2
    assert (job.path / "old-1" / "checkpoints").is_dir()
    assert sorted(path.name for path in job.path.iterdir()) == ["old-1", "old-2"]


def test_all_that_a_job_writes_is_moved_aside_and_nothing_else(describe, caplog):
    job = describe()
    folders = ("backup", "checkpoints", "logs", "model", "evaluation", "evaluation-train")
    names = ("config.json", "run.json", "history.csv", "DONE.json", "FAILED.json")
    for name in folders:
        (job.path / name).mkdir()
    for name in (*names, "LOCK.json", "notes.txt"):
        (job.path / name).write_text(name)
    with caplog.at_level(logging.INFO):
        job.move_aside()
    assert sorted(path.name for path in (job.path / "old-1").iterdir()) == sorted((*folders, *names))
    assert sorted(path.name for path in job.path.iterdir()) == ["LOCK.json", "notes.txt", "old-1"]
    assert caplog.messages == [f"moved the earlier job in {job.path} to {job.path / 'old-1'}"]


def test_a_job_that_was_refused_before_it_began_is_moved_aside(describe):
    job = describe()
    job.fail("a shard is damaged")
    job.move_aside()
    assert [path.name for path in (job.path / "old-1").iterdir()] == ["FAILED.json"]


def test_the_config_is_moved_last(describe, monkeypatch):
    """Until then the next run takes the move for one that was killed, and completes it."""
    job = describe()
    begin(job)
    for name in ("run.json", "DONE.json", "evaluation-train"):
        (job.path / name).write_text("x")
    moved = []
    monkeypatch.setattr(job_dir.files, "move", lambda path, target: moved.append(path.name))
    job.move_aside()
    assert len(moved) == 4
    assert moved[-1] == "config.json"


def test_of_an_empty_directory_nothing_is_moved_aside(describe, caplog):
    job = describe()
    with caplog.at_level(logging.INFO):
        job.move_aside()
    assert caplog.messages == []
    assert list(job.path.iterdir()) == []


@pytest.mark.parametrize("path", ["job", "job/below"])
def test_a_file_in_the_way_is_named(tmp_path, dataset, path):
    (tmp_path / "job").write_text("")
    with pytest.raises(UserError, match=rf"--job_dir=.*/{path} is a file, or is inside a file: name a folder"):
        job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / path)), dataset).make()


def test_the_config_tells_what_decides_the_result(describe, dataset):
    job = describe(epochs=7, seed=3)
    begin(job)
    described = json.loads((job.path / "config.json").read_text())
    assert described == job.description
    assert (described["epochs"], described["seed"]) == (7, 3)
    assert described["data"] == {
        "fingerprint": dataset.fingerprint,
        "genres": ["Action", "Comedy", "Drama"],
        "image": {"height": 16, "width": 16},
        "train": {"examples": 8, "genre_counts": {"Action": 4, "Comedy": 3, "Drama": 4}},
    }


def test_the_files_of_a_job_have_these_names(describe):
    job = describe()
    assert job.lock_path == job.path / "LOCK.json"
    assert job.evaluation == job.path / "evaluation"


def test_a_move_that_was_killed_goes_on_in_the_same_folder(describe):
    job = describe()
    begin(job)
    (job.path / "logs").mkdir()
    (job.path / "old-1" / "checkpoints").mkdir(parents=True)
    job.move_aside()
    assert {path.name for path in (job.path / "old-1").iterdir()} == {"checkpoints", "logs", "config.json"}
    assert not (job.path / "old-2").exists()


def test_a_finished_job_is_finished_until_it_gets_more_epochs(describe):
    job = describe(epochs=2)
    begin(job)
    job.finish({"step": 5})
    assert describe(epochs=2).is_finished()
    assert not describe(epochs=3).is_finished()
    assert json.loads((job.path / "DONE.json").read_text()) == {"epochs": 2, "step": 5}
    begin(describe(epochs=3))
    assert not describe(epochs=2).is_finished()


def test_results_are_cleared_with_the_other_evaluations(describe):
    job = describe()
    kept = ("evaluation-notes.txt", "history.csv")
    for name in kept:
        (job.path / name).write_text("x")
    for name in ("model", "evaluation", "evaluation-train", "evaluation-test-0123456789ab", "checkpoints"):
        (job.path / name / "below").mkdir(parents=True)
    job.clear_results()
    assert {path.name for path in job.path.iterdir()} == {"checkpoints", *kept}


def test_an_evaluation_of_another_split_or_data_set_has_a_separate_folder(tmp_path):
    job = epath.Path(tmp_path / "job")
    folders = [
        job_dir.evaluation_folder(job, split, other_data=other, output=None)
        for split, other in (("test", None), ("train", None), ("test", "0123456789abcdef"), ("test", "1123456789abcdef"))
    ]
    names = ["evaluation-test", "evaluation-train", "evaluation-test-0123456789ab", "evaluation-test-1123456789ab"]
    assert folders == [job / name for name in names]


def test_an_evaluation_does_not_replace_the_jobs_own(tmp_path, monkeypatch):
    job = epath.Path(tmp_path / "job")
    monkeypatch.chdir(tmp_path)
    for output in ("job/evaluation", f"{job}/evaluation/", f"{job}/model/../evaluation"):
        with pytest.raises(UserError, match=r"--output=.*/evaluation.* holds the job's own metrics and thresholds: name another"):
            job_dir.evaluation_folder(job, "test", other_data=None, output=output)
    with pytest.raises(UserError, match="holds the job's own"):
        job_dir.evaluation_folder(epath.Path("gs://posters/job"), "test", other_data=None, output="gs://posters/job/evaluation")
    asked = job_dir.evaluation_folder(job, "test", other_data="0123", output=f"{job}/evaluation-mine")
    assert asked == job / "evaluation-mine"


def test_a_restart_by_the_launcher_fails_again_and_a_person_may_retry(describe, monkeypatch):
    job = describe()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-1")
    job.fail("a shard is damaged")
    with pytest.raises(UserError, match=r"^a shard is damaged$"):
        describe(epochs=9).check_not_failed()
    describe(seed=1).check_not_failed()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-2")
    job.check_not_failed()
    monkeypatch.delenv("POSTER_JOB_ID")
    job.check_not_failed()
    job.fail("a person started it")
    job.check_not_failed()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-1")
    job.fail("a shard is damaged")
    begin(job)
    job.check_not_failed()


def test_a_restart_by_the_launcher_is_told_from_a_first_start(describe, monkeypatch):
    job = describe()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-1")
    assert not job.was_begun_by_this_launch()
    RunRecord(job.path / "run.json", data_dir="d", versions={}, check=lambda: None)
    assert job.was_begun_by_this_launch()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-2")
    RunRecord(job.path / "run.json", data_dir="d", versions={}, check=lambda: None)
    assert not job.was_begun_by_this_launch(), "another launch began it"
    monkeypatch.delenv("POSTER_JOB_ID")
    assert not job.was_begun_by_this_launch()


def test_a_job_that_a_person_began_is_no_restart_of_a_person(describe, monkeypatch):
    monkeypatch.delenv("POSTER_JOB_ID", raising=False)
    job = describe()
    RunRecord(job.path / "run.json", data_dir="d", versions={}, check=lambda: None)
    assert not job.was_begun_by_this_launch()


def test_the_launcher_names_the_job(describe, monkeypatch):
    assert describe().job_id == describe(epochs=3, strategy="one_device").job_id
    assert describe().job_id != describe(seed=1).job_id
    assert len(describe().job_id) == len(f"{socket.gethostname()}-") + 12
    assert describe().job_id.startswith(f"{socket.gethostname()}-")
    monkeypatch.setenv("POSTER_JOB_ID", "job-7")
    assert describe().job_id == "job-7"


def test_no_folder_is_renamed_on_a_mounted_bucket(describe, monkeypatch):
    """Cloud Storage FUSE renames only files."""
    rename = os.rename

    def rename_file(source, target, **options):
        if Path(source).is_dir():
            raise OSError(errno.EMFILE, "Too many open files", source)
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", rename_file)
    job = describe()
    begin(job)
    (job.path / "checkpoints" / "last").mkdir(parents=True)
    (job.path / "checkpoints" / "last" / "ckpt-3.index").write_text("x")
    job.move_aside()
    assert (job.path / "old-1" / "checkpoints" / "last" / "ckpt-3.index").read_text() == "x"
    assert sorted(path.name for path in job.path.iterdir()) == ["old-1"]


def test_a_name_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path, dataset):
    for character in "*?[]\\":
        with pytest.raises(UserError, match=r"--job_dir=.*job.1 contains one of \* \? \[ \] \\, which TensorFlow takes for"):
            job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / f"job{character}1")), dataset)
