"""The phases of a job that runs alone, and what it does with what it finds in its directory."""

import json
import logging

import pytest
import tensorflow as tf
from etils import epath

from tests.support.stage import ALONE, CHIEF, LAST_STEP, RESULTS, SECOND
from trainer.errors import LostPeer, UserError
from trainer.job import lock
from trainer.process import log
from trainer.training import checkpoints, loop, run


def test_a_job_alone_is_trained_evaluated_and_done(stage, capsys, caplog):
    caplog.set_level("INFO", logger="trainer")
    assert stage.run() == ["create", "listen", "train", "_evaluate_and_export", "delete_backups"]
    assert stage.names() == {"config.json", "run.json", "DONE.json"}
    assert stage.json("DONE.json") == {"epochs": 2, "step": LAST_STEP}
    (attempt,) = stage.json("run.json")["attempts"]
    assert {"trained_after_s", "finished_after_s"} <= attempt.keys()
    assert (attempt["strategy"], attempt["replicas"], attempt["workers"]) == ("SimpleNamespace", 1, 1)
    assert attempt["versions"]["tensorflow"] == tf.__version__
    assert "tf_keras" in attempt["versions"]
    assert attempt["data_dir"] == "d"
    assert capsys.readouterr().out == f"table of {RESULTS}, verdicts: True\n"
    folder = stage.folder
    assert caplog.messages == [f"done: the report is {folder}/evaluation/report.html, the model {folder}/model"]


def test_a_log_collector_gets_each_verdict_with_its_severity(stage, capsys, caplog, monkeypatch):
    caplog.set_level("INFO", logger="trainer")
    monkeypatch.setattr(log, "is_json", lambda: True)
    stage.run()
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told[:2] == [(logging.INFO, "it beats chance"), (logging.WARNING, "or not")]
    assert capsys.readouterr().out == f"table of {RESULTS}, verdicts: False\n"


def test_a_finished_job_is_left_alone(stage, caplog):
    stage.run()
    caplog.set_level("INFO", logger="trainer")
    before = {path: path.read_bytes() for path in stage.folder.iterdir()}
    assert stage.run() == []
    assert {path: path.read_bytes() for path in stage.folder.iterdir()} == before
    assert caplog.messages[-1] == f"{stage.folder} is finished: its report is {stage.folder}/evaluation/report.html"


def test_a_job_whose_training_is_complete_is_only_evaluated(stage, caplog):
    caplog.set_level("INFO", logger="trainer")
    stage.step = LAST_STEP
    assert stage.run() == ["create", "listen", "_evaluate_and_export", "delete_backups"]
    assert "nothing is left to train" in caplog.messages
    assert "trained_after_s" not in stage.json("run.json")["attempts"][0]


def test_results_of_fewer_epochs_are_removed_before_the_new_ones_are_made(stage):
    stage.run()
    for name in ("model", "evaluation"):
        (stage.folder / name).mkdir()
    stage.note(run, "_evaluate_and_export", raises=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        stage.run(epochs=3)
    assert stage.names() == {"config.json", "run.json"}
    assert stage.json("config.json")["epochs"] == 3


def test_results_are_kept_until_all_that_can_be_refused_is_not(stage):
    stage.run()
    stage.replicas = 3
    with pytest.raises(UserError, match=r"^--batch_size=8 does not divide among 3 replicas: "):
        stage.run(epochs=3)
    assert "DONE.json" in stage.names()


def test_backups_are_deleted_last(stage):
    there = []
    stage.note(checkpoints, "delete_backups", does=lambda folder: there.append((str(folder), "DONE.json" in stage.names())))
    stage.run()
    assert there == [(str(stage.folder), True)]


def test_a_job_owns_its_directory_while_it_runs(stage, monkeypatch):
    monkeypatch.setenv("POSTER_JOB_ID", "films")
    owners = []
    stage.note(loop, "train", does=lambda *arguments: owners.append(lock.read(epath.Path(stage.folder / "LOCK.json"))))
    stage.run()
    assert [owner and owner["job_id"] for owner in owners] == ["films"]
    assert "LOCK.json" not in stage.names()


def lose_lock(stage):
    """Another attempt takes the directory."""
    content = {**json.loads((stage.folder / "LOCK.json").read_text()), "attempt": 99}
    (stage.folder / "LOCK.json").write_text(json.dumps(content))


def test_training_gets_the_check_of_the_lock(stage):
    stage.run()
    _, options = stage.options["train"]
    assert options["cluster"] is ALONE
    assert options["stop"] is stage.stop
    with pytest.raises(LostPeer, match="was taken by another attempt"):
        options["check"]()  # The lock is released by now.


def test_an_error_of_the_user_is_kept_for_a_restart(stage, monkeypatch):
    monkeypatch.setenv("POSTER_JOB_ID", "films")
    stage.note(loop, "train", raises=UserError("the loss is nan"))
    with pytest.raises(UserError, match=r"^the loss is nan$"):
        stage.run()
    assert stage.json("FAILED.json")["reason"] == "the loss is nan"
    for cluster in (ALONE, SECOND):
        with pytest.raises(UserError, match=r"^the loss is nan$"):
            stage.run(cluster)
        assert stage.calls == []


def test_an_error_of_a_chief_that_has_lost_its_directory_is_not_kept(stage):
    def fail(*arguments):
        lose_lock(stage)
        raise UserError("the loss is nan")

    stage.note(loop, "train", does=fail)
    with pytest.raises(LostPeer, match="was taken by another attempt"):
        stage.run()
    assert "FAILED.json" not in stage.names()


@pytest.mark.parametrize(("cluster", "kind"), [(ALONE, tf.errors.UnavailableError), (CHIEF, LostPeer), (SECOND, LostPeer)])
def test_an_error_of_tensorflow_is_about_a_peer_only_if_there_are_peers(stage, cluster, kind):
    stage.note(loop, "train", raises=tf.errors.UnavailableError(None, None, "Connection reset by peer"))
    with pytest.raises(kind):
        stage.run(cluster)
    assert "FAILED.json" not in stage.names()


@pytest.mark.parametrize("cluster", [ALONE, SECOND])
def test_too_little_memory_names_the_batch_size(stage, cluster):
    stage.note(loop, "train", raises=tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    with pytest.raises(UserError, match=r"^--batch_size=8 needs more memory"):
        stage.run(cluster)


@pytest.mark.parametrize("cluster", [ALONE, SECOND])
def test_another_job_in_the_directory_is_refused(stage, cluster):
    stage.directory(seed=5).begin()
    with pytest.raises(UserError, match=r"holds a job with seed=5 \(not 0\): "):
        stage.run(cluster)
    assert stage.calls == []
    assert stage.names() == {"config.json"}


def test_fresh_moves_an_earlier_job_aside_once_for_each_launch(stage, monkeypatch):
    stage.directory(seed=5).begin()
    monkeypatch.setenv("POSTER_JOB_ID", "films")
    assert "train" in stage.run(fresh=True)
    assert (stage.folder / "old-1" / "config.json").exists()
    assert stage.run(fresh=True) == [], "a restart by the launcher finds the job done"
    assert "old-2" not in stage.names()
    monkeypatch.setenv("POSTER_JOB_ID", "again")
    stage.step = 0
    assert "train" in stage.run(fresh=True)
    assert (stage.folder / "old-2" / "config.json").exists()


def test_a_job_without_fresh_moves_nothing_aside(stage):
    stage.run()
    stage.run(epochs=3)
    assert not [name for name in stage.names() if name.startswith("old")]
