"""The phases of a job on several workers: as its chief, and as another worker."""

import json
import sys
import types

import pytest
import tensorflow as tf

from tests.support.stage import ALONE, CHIEF, LAST_STEP, SECOND, Restarted
from tests.support.states import job_in
from trainer.cluster import rendezvous
from trainer.errors import LostPeer, UserError
from trainer.model import pretrained
from trainer.process import tensorflow_start
from trainer.training import run


def test_the_chief_forms_the_cluster_trains_and_starts_anew_to_evaluate(stage, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "trainer.task", "--x"])
    with pytest.raises(Restarted):
        stage.run(CHIEF)
    assert stage.calls == [
        *("wait", "leave_at_once", "beat c", "create", "listen", "beat .", "check_same_job", "train"),
        "execv",
    ]
    assert stage.options["execv"] == ((sys.executable, ["python", "-m", "trainer.task", "--x"]), {})
    assert "trained_after_s" in stage.json("run.json")["attempts"][0]
    # The new process needs no other worker.
    assert stage.run(CHIEF) == ["create", "_evaluate_and_export", "delete_backups"]
    assert stage.options["create"] == (("auto",), {})
    assert stage.json("DONE.json")["epochs"] == 2


def test_what_was_printed_is_not_lost_when_the_process_starts_anew(stage, monkeypatch, caplog):
    caplog.set_level("INFO", logger="trainer")
    flushed = []
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, types.SimpleNamespace(flush=lambda name=name: flushed.append(name), write=lambda text: None))
    with pytest.raises(Restarted):
        run._restart_without_cluster()
    assert flushed == ["stdout", "stderr"]
    assert caplog.messages == ["training is done: starting anew without the other workers, to evaluate"]


def test_a_worker_trains_and_waits_for_the_chief(stage):
    stage.directory().make()
    chief = {"job_id": "films", "attempt": 1, "host": "a", "pid": 7, "heartbeat": 0.0}
    (stage.folder / "LOCK.json").write_text(json.dumps(chief))
    assert stage.run(SECOND, peer_timeout=123.0) == [
        *("wait", "leave_at_once", "beat c", "create", "listen", "beat .", "check_same_job", "train"),
        "wait_for_chief",
    ]
    assert stage.names() == {"LOCK.json"}, "it writes nothing"
    (cluster,), options = stage.options["wait"]
    assert (cluster, options["timeout"]) == (SECOND, 123.0)
    assert stage.options["create"][0] == ("auto", SECOND)
    (directory,), options = stage.options["wait_for_chief"]
    assert str(directory.path) == str(stage.folder)
    assert (options["chief"], options["timeout"]) == (chief, 123.0)
    assert options["is_saved"]()
    _, options = stage.options["train"]
    assert options["check"]() is None, "it owns no directory"
    assert (options["cluster"], options["stop"]) == (SECOND, stage.stop)
    assert options["weights"] is None


def test_a_worker_whose_training_is_complete_forms_no_cluster(stage):
    stage.directory().begin()
    stage.step = LAST_STEP
    assert stage.run(SECOND) == ["wait_for_chief"]
    assert stage.options["wait_for_chief"][1]["chief"] is None


def test_a_worker_of_a_finished_job_ends_at_once(stage, caplog):
    caplog.set_level("INFO", logger="trainer")
    stage.run()
    assert stage.run(SECOND) == []
    assert caplog.messages[-1] == f"{stage.folder} is finished"


def test_a_worker_that_comes_back_after_training_does_not_wait_for_a_cluster(stage):
    """The chief saves what all have trained only after this worker has begun to wait."""
    stage.note(rendezvous, "wait")
    stage.run(SECOND)
    beat = stage.options["wait"][1]["beat"]
    stage.calls.clear()
    stage.step = 0
    beat()
    assert stage.calls == ["beat ."]
    stage.step = LAST_STEP
    with pytest.raises(LostPeer, match=r"^the other workers have finished training meanwhile$"):
        beat()


def test_a_fresh_worker_takes_nothing_from_an_earlier_job(stage, monkeypatch):
    """The chief may be about to move it aside: neither its end nor its flags are this job's."""
    monkeypatch.setenv("POSTER_JOB_ID", "first")
    stage.run(seed=5)
    monkeypatch.setenv("POSTER_JOB_ID", "second")
    assert "train" in stage.run(SECOND, fresh=True)
    stage.options["wait"][1]["beat"]()
    # Begun by this launch, it is this job.
    monkeypatch.setenv("POSTER_JOB_ID", "first")
    assert stage.run(SECOND, fresh=True, seed=5) == []


def test_a_worker_keeps_the_end_of_the_cluster_off_its_stderr(stage, monkeypatch):
    class Quiet:
        def __enter__(self):
            stage.calls.append("quiet")

        def __exit__(self, *error):
            stage.calls.append("loud")

    monkeypatch.setattr(tensorflow_start, "quiet", Quiet)
    calls = stage.run(SECOND)
    assert (calls[0], calls[-1]) == ("quiet", "loud")


def test_workers_compare_their_flags_and_how_often_they_save(stage):
    stage.run(SECOND, backup_steps=7)
    (_, description), options = stage.options["check_same_job"]
    assert description == stage.directory().description | {"backup_steps": 7}
    assert options == {"workers": 2}


# Pretrained weights.

PRETRAINED = {"model": "resnet50_v2", "weights": "imagenet"}


@pytest.mark.parametrize("cluster", [ALONE, SECOND])
def test_a_pretrained_job_begins_with_the_weights(stage, cluster):
    stage.run(cluster, **PRETRAINED)
    assert stage.options["train"][1]["weights"] == ["weights"]


@pytest.mark.parametrize("cluster", [ALONE, SECOND])
@pytest.mark.parametrize("kind", ["backup", "last"])
def test_every_worker_of_a_pretrained_job_that_resumes_reads_no_weights(stage, cluster, kind):
    """Whichever state there is: the file may be gone, and workers must not differ in what they compare."""
    stage.directory(**PRETRAINED).begin()
    state = job_in(stage.folder)
    if kind == "backup":
        state.back_up(3)
    else:
        state.end_epoch(5, 0.5)
    calls = stage.run(cluster, **PRETRAINED)
    assert "train" in calls
    assert "load" not in calls
    assert stage.options["train"][1]["weights"] is None


def test_no_weights_are_read_where_none_are_wanted_or_training_is_complete(stage):
    assert "load" not in stage.run()
    assert stage.step == LAST_STEP
    assert "load" not in stage.run(fresh=True, **PRETRAINED)


def test_missing_weights_refuse_a_job_before_it_begins(stage):
    stage.note(pretrained, "load", raises=UserError("--weights=x does not exist"))
    with pytest.raises(UserError, match="does not exist"):
        stage.run(**PRETRAINED)
    assert stage.names() == {"FAILED.json"}


# TensorFlow's switches.


@pytest.mark.parametrize("cluster", [ALONE, SECOND])
@pytest.mark.parametrize("flag", ["deterministic", "debug_nans", "run_eagerly", None])
def test_a_flag_sets_its_switch_of_tensorflow(stage, cluster, flag, monkeypatch):
    switches = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: switches.append("deterministic"))
    monkeypatch.setattr(tf.debugging, "enable_check_numerics", lambda: switches.append("debug_nans"))
    monkeypatch.setattr(tf.config, "run_functions_eagerly", lambda on: switches.extend(["run_eagerly"] * on))
    stage.run(cluster, **({flag: True} if flag else {}))
    assert switches == ([flag] if flag else [])
