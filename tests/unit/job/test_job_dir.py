"""The owner of a job directory, when a job may be resumed there, and its lock."""

import errno
import io
import json
import os
import time
from pathlib import Path

import pytest
from etils import epath

from tests.support import drawn
from trainer.config import TrainConfig
from trainer.errors import LostPeer, UserError
from trainer.job import job_dir, lock, lock_file


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


def test_a_job_is_not_made_shorter(describe):
    begin(describe(epochs=3))
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
    with pytest.raises(UserError, match=r"data=.* \(not .*\)"):
        job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / "job")), other).check_resumable()


def test_files_without_a_config_are_refused(describe):
    job = describe()
    (job.path / "model").mkdir()
    with pytest.raises(UserError, match=r"no config.json but holds model"):
        job.check_resumable()


def test_a_damaged_config_is_named(describe):
    job = describe()
    (job.path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
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


def test_a_file_in_the_way_is_named(tmp_path, dataset):
    (tmp_path / "job").write_text("")
    with pytest.raises(UserError, match=r"--job_dir=.*/job is a file"):
        job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / "job")), dataset).make()


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
    with pytest.raises(UserError, match="a shard is damaged"):
        job.check_not_failed()
    monkeypatch.setenv("POSTER_JOB_ID", "launch-2")
    job.check_not_failed()
    monkeypatch.delenv("POSTER_JOB_ID")
    job.check_not_failed()


def test_the_launcher_names_the_job(describe, monkeypatch):
    assert describe().job_id == describe(epochs=3, strategy="one_device").job_id
    assert describe().job_id != describe(seed=1).job_id
    monkeypatch.setenv("POSTER_JOB_ID", "job-7")
    assert describe().job_id == "job-7"


class TestLock:
    def path(self, tmp_path):
        return epath.Path(tmp_path) / "LOCK.json"

    def test_another_job_is_refused_with_the_name_of_the_owner(self, tmp_path):
        path = self.path(tmp_path)
        with (
            lock.held(path, "first"),
            pytest.raises(UserError, match=r"belongs to job first \(process \d+ on "),
            lock.held(path, "second"),
        ):
            pass
        with lock.held(path, "second"):
            pass
        assert not path.exists()

    def test_the_same_job_takes_over_and_the_earlier_attempt_stops_writing(self, tmp_path):
        path = self.path(tmp_path)
        with lock.held(path, "job") as earlier:
            earlier.check()
            with lock.held(path, "job") as later:
                later.check()
                assert json.loads(path.read_text())["attempt"] == 2
                with pytest.raises(LostPeer, match="another attempt"):
                    earlier.check()
                earlier.release()
                assert path.exists(), "who has lost the lock does not take it away"

    def test_a_silent_job_is_replaced_after_a_minute(self, tmp_path):
        path = self.path(tmp_path)
        owner = {"job_id": "first", "attempt": 3, "host": "h", "pid": 1, "heartbeat": time.time() - 61}
        path.write_text(json.dumps(owner))
        with lock.held(path, "second"):
            assert json.loads(path.read_text())["attempt"] == 1
        path.write_text(json.dumps(owner | {"heartbeat": time.time() - 50}))
        with pytest.raises(UserError, match="belongs to job first"), lock.held(path, "second"):
            pass

    def test_the_file_has_the_keys_that_others_read(self, tmp_path):
        path = self.path(tmp_path)
        with lock.held(path, "job"):
            assert json.loads(path.read_text()).keys() == {"job_id", "attempt", "host", "pid", "heartbeat"}


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


def test_only_one_of_two_that_find_no_lock_gets_it(tmp_path):
    one, other = (lock_file.at(epath.Path(tmp_path) / "LOCK.json") for _ in range(2))
    assert one.read() is other.read() is None
    assert one.take(b"one")
    assert not other.take(b"other")
    assert one.read() == b"one"


def test_only_one_of_two_that_find_an_old_lock_gets_it(tmp_path):
    (tmp_path / "LOCK.json").write_bytes(b"old")
    one, other = (lock_file.at(epath.Path(tmp_path) / "LOCK.json") for _ in range(2))
    assert one.read() == other.read() == b"old"
    assert one.take(b"one")
    assert not other.take(b"other")
    assert one.read() == b"one"


def test_a_name_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path, dataset):
    with pytest.raises(UserError, match=r"--job_dir=.*job\[1\] contains one of"):
        job_dir.describe(TrainConfig(data_dir="d", job_dir=str(tmp_path / "job[1]")), dataset)


def test_on_a_mounted_bucket_the_later_of_two_machines_does_not_get_the_lock(tmp_path, monkeypatch):
    """Cloud Storage FUSE creates a new file when it is closed, and only then finds that it exists."""
    file = lock_file.at(epath.Path(tmp_path) / "LOCK.json")
    assert file.read() is None

    class Stale(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("builtins.open", lambda *arguments, **options: Stale())
    assert not file.take(b"mine")
