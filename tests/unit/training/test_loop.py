"""Training as a whole, with a network of one layer, films made up here, and a validation that looks at one weight.

A job goes on exactly where it was, and only the chief writes.
"""

import itertools
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from tests.support import drawn
from tests.support.jobs import tensors
from tests.support.states import saved
from tests.support.worker import (
    ALONE,
    BATCH,
    CHIEF,
    SECOND,
    SIDE,
    Killed,
    Signals,
    Worker,
    made_up,
    one_layer,
    replace_parts,
    step_by_step,
)
from trainer.dataset import training_order
from trainer.errors import Stopped
from trainer.evaluation import evaluate
from trainer.input import pipeline
from trainer.input.shard_cache import ShardCache
from trainer.job.history import MONITOR
from trainer.model import fine_tuning, networks, objective
from trainer.process import log
from trainer.training import checkpoints, loop
from trainer.training.checkpoints import Progress


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """27 training films in 4 shards: 24 of them, 3 steps, make an epoch."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=27, validation=7, test=2, shard_count=4, encoding="raw")


@pytest.fixture
def worker(dataset, tmp_path, monkeypatch):
    """A worker that takes its steps without training."""
    replace_parts(monkeypatch)
    monkeypatch.setattr(networks.Network, "fit", step_by_step)
    return Worker(dataset, tmp_path / "job")


@pytest.fixture
def trainer(dataset, tmp_path, monkeypatch):
    """A worker that trains."""
    replace_parts(monkeypatch)
    return Worker(dataset, tmp_path / "job")


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An undisturbed job of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        replace_parts(patch)
        made = Worker(dataset, tmp_path_factory.mktemp("whole"))
        made.train(backup_steps=2)
    return made


def assert_same_end(one, other):
    assert one.rows == other.rows
    for kind in ("last", "best"):
        first, second = (tensors(each.folder / "checkpoints" / kind) for each in (one, other))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_job_leaves_its_history_states_and_logs(whole):
    assert whole.epochs == [(1, 3), (2, 6)]
    names = whole.rows[0].split(",")
    assert names[:4] == ["epoch", "step", "learning_rate", "loss"]
    assert {"accuracy", "precision", "recall", "val_loss", MONITOR} <= set(names)
    losses = [float(row.split(",")[3]) for row in whole.rows[1:]]
    assert losses[1] != losses[0], "it learns"
    assert saved(whole.folder, "backup") == [4, 6]
    assert saved(whole.folder, "checkpoints/last") == [6]


def test_tensorboard_gets_the_metrics_and_no_graph_or_profile(whole):
    events = [path for path in (whole.folder / "logs").rglob("*") if path.is_file()]
    assert all(".tfevents." in path.name and path.suffix == ".v2" for path in events), events
    values = [value for path in events for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value]
    tags = {value.tag for value in values}
    assert "epoch_loss" in tags
    assert all(tag.startswith("epoch_") for tag in tags), tags


def kill_if(found):
    """A check, before each write, that kills the worker once something is found."""

    def check(*arguments):
        if found():
            raise Killed

    return check


def test_a_job_that_is_killed_and_stopped_again_and_again_ends_as_an_undisturbed_one(whole, trainer, monkeypatch, caplog):
    caplog.set_level("INFO", logger="trainer")
    folder = trainer.folder
    # Within the first epoch, with the state of step 2.
    with pytest.raises(Killed):
        trainer.train(backup_steps=2, check=kill_if(lambda: saved(folder, "backup") == [2]))
    # At the end of the first epoch, between its history and its state.
    with pytest.raises(Killed):
        trainer.train(backup_steps=2, check=kill_if((folder / "history.csv").exists))
    # It finishes that epoch first, and is asked to stop in the next one.
    caplog.clear()
    with pytest.raises(Stopped, match=r"^asked to stop; the state is saved at step 5$"):
        trainer.train(backup_steps=2, check=lambda: saved(folder, "checkpoints/last") and trainer.ask())
    told = caplog.messages
    assert "restored step 3 of 6 from backup/ckpt-3" in told
    assert told.index("validating") < told.index("training"), "an epoch ends before the next one begins"
    # In the last validation.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluate, "epoch_metrics", kill_if(lambda: True))
        trainer.stop = Signals()
        trainer.train(backup_steps=2)
    # No step is left.
    monkeypatch.setattr(networks.Network, "fit", None)
    trainer.train(backup_steps=2)
    assert_same_end(trainer, whole)


def test_a_job_is_trained_to_its_last_step_within_an_epoch(worker):
    worker.train(max_steps=5, backup_steps=100)
    assert worker.epochs == [(1, 3), (2, 5)]
    assert saved(worker.folder, "backup") == [3, 5]


def test_a_job_that_is_asked_to_stop_during_validation_ends_at_once(worker, monkeypatch):
    def arrive(*arguments):
        worker.stop.arrive()
        raise AssertionError("validation goes on")

    monkeypatch.setattr(evaluate, "epoch_metrics", arrive)
    with pytest.raises(Stopped, match="by SIGTERM"):
        worker.train()
    assert saved(worker.folder, "backup") == [3]


def test_a_signal_in_the_last_epochs_end_stops_the_job_before_its_evaluation(worker):
    with pytest.raises(Stopped):
        worker.train(check=lambda: saved(worker.folder, "checkpoints/best") and worker.ask(), epochs=1)
    assert saved(worker.folder, "checkpoints/last") == [3]


def test_training_that_early_stopping_has_ended_does_not_go_on(worker, monkeypatch):
    worker.train(epochs=9, early_stopping=2)
    assert worker.epochs == [(1, 3), (2, 6), (3, 9)]
    monkeypatch.setattr(networks.Network, "fit", None)
    worker.train(epochs=9, early_stopping=2)


def test_the_log_tells_what_is_trained_for_how_long_and_from_where(worker, caplog):
    caplog.set_level("INFO", logger="trainer")
    worker.train(backup_steps=2)
    parameters = SIDE * SIDE * 3 * 3 + 3
    assert caplog.messages[:5] == [
        f"network: cnn, {parameters:,} parameters ({parameters:,} trainable), float32, random weights",
        "plan: 2 epochs of 3 steps of 8 films; an epoch leaves out 3 films, different ones each time",
        "starting at step 0 of 6: there is no state to restore",
        "training",
        "saved step 2",
    ]
    caplog.clear()
    worker.train(epochs=3)
    assert caplog.messages[2] == "restored step 6 of 9 from checkpoints/last/ckpt-6"
    assert log._step == 9


@pytest.mark.parametrize(
    ("saved_by", "replicas", "told"),
    [
        (2, 2, []),
        (0, 2, []),
        (1, 2, ["the state was saved by 1 replica(s), and training goes on with 2: each step has the same films"]),
        (4, 1, ["the state was saved by 4 replica(s), and training goes on with 1: each step has the same films"]),
    ],
)
def test_another_number_of_replicas_than_before_is_told(caplog, saved_by, replicas, told):
    caplog.set_level("INFO", logger="trainer")
    progress = Progress()
    progress.metrics = [[0.5]] * saved_by
    loop._log_start(progress, "backup/ckpt-3", 10, replicas=replicas)
    assert caplog.messages[1:] == told


def test_the_first_outputs_are_the_shares_of_the_genres(worker, dataset, monkeypatch):
    found: dict[str, Any] = {}
    monkeypatch.setattr(networks.Network, "fit", lambda network, *arguments, **options: found.update(network=network))
    worker.train()
    bias = found["network"].get_layer("genres").bias
    split = dataset.split("train")
    np.testing.assert_array_equal(bias, objective.best_constant(split.genre_counts, split.examples))


def test_the_flags_of_keras_reach_it(worker, monkeypatch):
    found: list[Any] = []

    def fit(network, inputs, **options):
        found.append((network.run_eagerly, int(network._steps_per_execution or 1), options["epochs"], options["steps_per_epoch"]))
        assert options["verbose"] == 0, "the log tells how training goes"

    monkeypatch.setattr(networks.Network, "fit", fit)
    worker.train(run_eagerly=False, steps_per_execution=3, epochs=4)
    worker.train()
    assert found == [(False, 3, 4, 3), (True, 1, 2, 3)]


def test_a_worker_that_is_not_the_chief_trains_and_writes_and_says_nothing(worker, caplog):
    caplog.set_level("INFO", logger="trainer")
    worker.train(cluster=SECOND, profile_steps="2,3")
    assert log._step == 6
    assert not worker.folder.exists()
    assert caplog.messages == ["training"]


def test_the_chief_of_several_workers_writes_and_warns_of_shards_that_do_not_divide(worker, caplog):
    worker.train(cluster=CHIEF, open_shards=3)
    assert worker.epochs == [(1, 3), (2, 6)]
    assert "stop" not in worker.rows[0], "the vote is no metric"
    assert "4 training shards, 3 open at a time, do not divide among 2 workers" in caplog.text
    caplog.clear()
    worker.train(cluster=SECOND, open_shards=3)
    assert caplog.text == ""


def test_several_workers_stop_one_step_after_the_vote(worker):
    with pytest.raises(Stopped, match=r"saved at step 3$"):
        worker.train(cluster=CHIEF, check=worker.ask, backup_steps=1)


@pytest.mark.parametrize(("cluster", "replicas", "summed"), [(ALONE, 1, 1), (ALONE, 2, 1), (CHIEF, 2, 2), (SECOND, 4, 4)])
def test_the_loss_is_a_sum_over_the_replicas_of_several_workers(worker, monkeypatch, cluster, replicas, summed):
    class Noted(BaseException):
        pass

    def note(progress, **options):
        assert options.pop("summed_replicas") == summed
        assert options == {
            "batch_size": BATCH, "steps_per_epoch": 3, "epochs": 2, "last_step": 6, "log_steps": 7, "is_chief": cluster.is_chief,
        }  # fmt: skip
        raise Noted

    monkeypatch.setattr(loop, "Watch", note)
    monkeypatch.setattr(loop, "check_same_state", lambda *arguments: None)
    monkeypatch.setattr(tf.distribute.OneDeviceStrategy, "num_replicas_in_sync", replicas)
    with pytest.raises(Noted):
        worker.train(cluster=cluster, log_steps=7)


@pytest.fixture
def compared(monkeypatch):
    """What the workers compare before they train; they do not train."""
    found: list[Any] = []
    monkeypatch.setattr(loop, "check_same_state", lambda strategy, progress: found.append(("state", progress.step)))
    monkeypatch.setattr(loop, "check_same_weights", lambda strategy, weights, *, workers: found.append(("weights", workers)))
    monkeypatch.setattr(networks.Network, "fit", lambda *arguments, **options: found.append("fit"))
    return found


WEIGHTS = [np.full([3], 5, np.float32)]


@pytest.mark.parametrize(
    ("cluster", "weights", "expected"),
    [
        (ALONE, None, ["fit"]),
        (ALONE, WEIGHTS, ["fit"]),
        (CHIEF, None, [("state", 0), "fit"]),
        (SECOND, WEIGHTS, [("state", 0), ("weights", 2), "fit"]),
    ],
)
def test_several_workers_compare_what_they_start_from_before_they_train(worker, compared, cluster, weights, expected):
    worker.train(cluster=cluster, pretrained=weights)
    assert compared == expected


@pytest.fixture
def given(worker, monkeypatch):
    """The weights that the network's backbone is given."""
    found: list[Any] = []

    def build(job, **options):
        network = one_layer(job, **options)
        part = types.SimpleNamespace(trainable_variables=[], set_weights=found.append)
        network.pretrained = fine_tuning.Pretrained(part, tf.Variable(0.0))
        return network

    monkeypatch.setattr(networks, "build", build)
    return found


def test_a_new_job_begins_with_the_pretrained_weights_and_one_that_resumes_with_its_own(worker, given):
    worker.train(pretrained=WEIGHTS, max_steps=1)
    assert given == [WEIGHTS]
    worker.train(pretrained=WEIGHTS)
    assert given == [WEIGHTS]


def test_a_pretrained_network_may_begin_without_weights(idle, given):
    idle.train(pretrained=None)
    assert given == []


def test_a_profile_is_made_of_the_steps_that_the_flag_names(worker, monkeypatch):
    found: list[Any] = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: found.append((folder, log._step)))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: found.append(log._step))
    worker.train(epochs=1, profile_steps="2,3")
    # Step 1 is done before it, and step 3 when it ends.
    assert found[0] == (str(worker.folder / "logs"), 1)
    assert found[1] in (2, 3)
    assert len(found) == 2


@pytest.fixture
def asked(worker, monkeypatch):
    """What the input pipeline and the validation are asked for."""
    found: dict[str, Any] = {}

    def train(dataset, order, **options):
        found["train"] = options
        return made_up(dataset, order, **options)

    def validate(strategy, network, dataset, split, **options):
        found[split] = options
        return network

    monkeypatch.setattr(pipeline, "training_dataset", train)
    monkeypatch.setattr(loop, "SplitPredictor", validate)
    return found


@pytest.fixture
def idle(worker, monkeypatch):
    """A worker that gets its input and takes no step."""
    monkeypatch.setattr(networks.Network, "fit", lambda *arguments, **options: None)
    return worker


def test_input_begins_at_the_restored_step_and_ends_with_the_job(worker, asked):
    worker.train(max_steps=2, epochs=3)
    expected = {"replica_batch": 8, "first_step": 0, "epochs": 3, "worker": 0, "workers": 1, "mixed": 0.0, "cache": None}
    assert asked == {"train": expected, "validation": {"batch_size": 8, "cache": None}}
    worker.train(epochs=3)
    assert asked["train"] == expected | {"first_step": 2}


def test_training_and_validation_read_from_one_cache_where_one_is_wanted(idle, asked, tmp_path):
    idle.train(cache=str(tmp_path / "cache"))
    assert isinstance(asked["train"]["cache"], ShardCache)
    assert asked["validation"]["cache"] is asked["train"]["cache"]


@pytest.mark.parametrize(("augment", "mixed"), [("none", 0.0), ("light", 0.0), ("strong", 0.5)])
def test_films_are_mixed_where_the_augmentation_is_strong(idle, asked, augment, mixed):
    idle.train(augment=augment)
    assert asked["train"]["mixed"] == mixed


def test_replicas_share_the_batch(idle, asked, monkeypatch):
    monkeypatch.setattr(tf.distribute.OneDeviceStrategy, "num_replicas_in_sync", 2)
    idle.train()
    assert asked["train"]["replica_batch"] == BATCH // 2
    assert asked["validation"]["batch_size"] == BATCH


def test_the_log_names_the_file_of_pretrained_weights(idle, caplog):
    caplog.set_level("INFO", logger="trainer")
    idle.train(model="efficientnet_lite0", weights="/somewhere/tiny.weights.h5")
    assert caplog.messages[0].endswith(", float32, tiny.weights.h5 weights")


def test_lines_before_the_first_step_have_the_restored_step(worker, monkeypatch):
    worker.train(max_steps=2)
    log.at_step(0)
    steps: list[int] = []
    monkeypatch.setattr(networks.Network, "fit", lambda *arguments, **options: steps.append(log._step))
    worker.train()
    assert steps == [2]


def test_synthetic_data_are_one_batch_without_end(worker, asked, monkeypatch):
    found: list[Any] = []
    monkeypatch.setattr(networks.Network, "fit", lambda network, inputs, **options: found.extend(itertools.islice(inputs, 20)))
    worker.train(synthetic_data=True)
    assert "train" not in asked
    assert len(found) == 20
    np.testing.assert_array_equal(found[0][0]["image"], found[19][0]["image"])
    assert found[0][0]["image"].shape == (BATCH, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("step", "ratings", "options", "expected"),
    [
        (6, (0.5, 0.6), {}, True),
        (3, (0.5,), {}, False),
        (5, (0.5, 0.6), {}, False),
        (6, (0.5, 0.6), {"epochs": 3}, False),
        (4, (0.5, 0.6), {"max_steps": 4}, True),
        (6, (0.5, 0.4), {"epochs": 3, "early_stopping": 1}, True),
        (6, (0.5, 0.6), {"epochs": 3, "early_stopping": 1}, False),
    ],
)
def test_training_is_complete_at_the_last_step_or_where_it_was_stopped_early(worker, monkeypatch, step, ratings, options, expected):
    progress = Progress()
    progress.step = step
    progress.history = [{"epoch": epoch, MONITOR: rating} for epoch, rating in enumerate(ratings, start=1)]
    monkeypatch.setattr(checkpoints, "read_progress", lambda folder: progress)
    job = worker.job(**options)
    order = training_order.plan(job, worker.dataset, workers=1)
    assert loop.is_complete(job, order, epath.Path(worker.folder)) is expected
