"""What the callbacks of `fit` do at a step's and at an epoch's end, with steps that the test takes."""

import csv
import types

import pytest
import tensorflow as tf
import tf_keras as keras
from etils import epath
from tf_keras.src.utils import tf_utils

from trainer.errors import LostPeer, Stopped, UserError
from trainer.job.history import MONITOR
from trainer.process import heartbeat
from trainer.training import callbacks
from trainer.training.checkpoints import Progress, TrainingState
from trainer.training.consensus import StopVote

STEPS_PER_EPOCH = 10


class State(TrainingState):
    """A training state that only remembers what it was asked for, with the step."""

    def __init__(self, step=0, *, history=(), writes=True):
        self.progress = Progress()
        self.progress.step, self.progress.history = step, list(history)
        self.writes = writes
        self.calls: list[tuple[str, int]] = []
        self.check = lambda: self._note("check")

    def _note(self, name):
        self.calls.append((name, self.progress.step))

    def back_up(self):
        self._note("back_up")

    def save_epoch(self):
        self._note("save_epoch")

    def restore_metrics(self):
        self._note("restore_metrics")


def rows(*ratings):
    return [{"epoch": epoch, "step": epoch * STEPS_PER_EPOCH, MONITOR: rating} for epoch, rating in enumerate(ratings, start=1)]


class Training:
    """Calls a `BackupAndRestore` as `fit` does, from the state's step on."""

    def __init__(self, step=0, *, every=1000, last_step=100, writes=True, votes=None):
        self.state = State(step, writes=writes)
        self.asked = False
        self.callback = callbacks.BackupAndRestore(
            self.state,
            every=every,
            steps_per_epoch=STEPS_PER_EPOCH,
            last_step=last_step,
            vote=votes or StopVote(lambda: self.asked, workers=1),
        )
        self.model = types.SimpleNamespace(stop_training=False)
        self.callback.set_model(self.model)
        self.callback.on_train_begin()

    def steps(self, count, *, at_once=1, loss=0.5):
        """Takes steps, some of them in one call of the device; stops where `fit` would."""
        for _ in range(0, count, at_once):
            step = self.state.progress.step
            if step % STEPS_PER_EPOCH == 0 or not hasattr(self, "began"):
                self.began = True
                self.callback.on_epoch_begin(step // STEPS_PER_EPOCH)
            self.callback.on_train_batch_begin(step % STEPS_PER_EPOCH)
            self.callback.on_train_batch_end((step + at_once - 1) % STEPS_PER_EPOCH, {"loss": loss})
            if self.model.stop_training:
                break

    @property
    def saved(self):
        return [step for name, step in self.state.calls if name == "back_up"]


def test_the_state_is_saved_every_so_many_steps_and_at_each_epochs_end():
    training = Training(every=4)
    training.steps(25)
    assert training.state.progress.step == 25
    assert training.saved == [4, 8, 10, 12, 16, 20, 24]


def test_a_call_of_several_steps_saves_where_a_backup_was_due_within_it():
    training = Training(every=3)
    training.steps(20, at_once=2)
    assert training.saved == [4, 6, 10, 12, 16, 18, 20]


def test_a_resumed_epoch_counts_on_from_its_step():
    training = Training(13)
    assert training.model._training_state.maybe_load_initial_counters_from_ckpt(STEPS_PER_EPOCH, 0, "train") == (1, 3)
    training.steps(9)
    assert training.state.progress.step == 22
    assert training.saved == [20]


@pytest.mark.parametrize(("step", "restored"), [(13, 1), (11, 1), (10, 0), (0, 0)])
def test_running_metrics_are_restored_once_and_only_within_an_epoch(step, restored):
    training = Training(step)
    training.steps(25)
    assert [call for call in training.state.calls if call[0] == "restore_metrics"] == [("restore_metrics", step)] * restored


def test_training_ends_at_the_last_step_with_the_state_saved_though_the_epoch_is_not_over():
    """Else a job that is killed before its validation would train the steps since the last backup once more."""
    training = Training(last_step=13)
    training.steps(12)
    assert (training.saved, training.model.stop_training) == ([10], False)
    training.steps(10)
    assert training.state.progress.step == 13
    assert (training.saved, training.model.stop_training) == ([10, 13], True)


def test_the_log_tells_of_backups_within_an_epoch_and_only_the_chiefs(caplog):
    caplog.set_level("INFO", logger="trainer")
    Training(every=4, last_step=14).steps(14)
    assert caplog.messages == ["saved step 4", "saved step 8", "saved step 12"]
    caplog.clear()
    training = Training(every=4, writes=False)
    training.steps(14)
    assert training.saved == [4, 8, 10, 12], "all workers read their metrics for it"
    assert caplog.messages == []


def test_a_worker_that_is_asked_to_stop_saves_its_step_first():
    training = Training()
    training.steps(3)
    training.asked = True
    with pytest.raises(Stopped, match=r"^asked to stop; the state is saved at step 4$"):
        training.steps(1)
    assert training.saved == [4]


def test_workers_vote_before_each_step_and_leave_after_the_sum():
    vote = StopVote(lambda: False, workers=2)
    training = Training(votes=vote)
    for step, votes in enumerate((0.0, 1.0)):
        training.callback.on_train_batch_begin(step)
        training.callback.on_train_batch_end(step, {"loss": 0.5, "stop": tf.constant(votes)})
    assert training.saved == []
    with pytest.raises(LostPeer, match=r"^another worker was asked to stop; the state is saved at step 3$"):
        training.callback.on_train_batch_end(2, {"loss": 0.5, "stop": tf.constant(1.0)})
    assert training.saved == [3]


def test_each_step_casts_this_workers_vote():
    vote = StopVote(lambda: True, workers=2)
    Training(votes=vote).callback.on_train_batch_begin(0)
    assert float(vote.metrics()["stop"]) == 1.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_job_and_replaces_no_good_state(loss):
    training = Training(every=4)
    training.steps(3, loss=loss)
    with pytest.raises(UserError, match=rf"^the loss is {loss} at step 4: lower --learning_rate, raise --warmup_epochs, or find"):
        training.steps(1, loss=loss)
    assert training.saved == []


def test_each_step_is_progress_for_the_guard(monkeypatch):
    beats = []
    monkeypatch.setattr(heartbeat, "beat", lambda sign=heartbeat.OTHER: beats.append(sign))
    Training().steps(3)
    assert beats == [heartbeat.STEP] * 3


def learning_rate(state, *, pretrained=None):
    callback = callbacks.LearningRate(lambda step: step / 10, state, multiplier=lambda step: step / 100)
    callback.set_model(types.SimpleNamespace(optimizer=keras.optimizers.SGD(7.0), pretrained=pretrained))
    return callback


def test_the_rate_is_set_before_each_step_and_the_epoch_has_that_of_its_last():
    state = State(13)
    callback = learning_rate(state)
    callback.on_epoch_begin(1)
    assert float(callback.model.optimizer.learning_rate) == 7.0
    callback.on_train_batch_begin(3)
    assert float(callback.model.optimizer.learning_rate) == pytest.approx(1.3)
    logs = {"loss": 0.5}
    callback.on_epoch_end(1, logs)
    assert logs == {"loss": 0.5, "learning_rate": 1.3}, "as written, not as its float32 is in float64"


def test_a_pretrained_backbone_has_its_own_rate():
    multiplier = tf.Variable(0.0)
    callback = learning_rate(State(13), pretrained=types.SimpleNamespace(multiplier=multiplier))
    callback.on_train_batch_begin(3)
    assert float(multiplier) == pytest.approx(0.13)


@pytest.fixture
def traces(monkeypatch):
    """Where traces begin and end: ("start", folder), ("stop",)."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda logs: found.append(("start", logs)))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: found.append(("stop",)))
    return found


def traced(traces, *, first, last, start=0, end=10, at_once=1):
    """The steps that are taken while a trace runs."""
    state = State(start)
    callback = callbacks.Profile(state, epath.Path("/logs"), first=first, last=last)
    steps: list[int] = []
    for step in range(start, end, at_once):
        callback.on_train_batch_begin(step)
        if traces[-1:] == [("start", "/logs")]:
            steps += range(step + 1, step + 1 + at_once)
        state.progress.step += at_once
        callback.on_train_batch_end(step)
    callback.on_train_end()
    return steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"first": 3, "last": 5}, [3, 4, 5]),
        ({"first": 1, "last": 1}, [1]),
        ({"first": 3, "last": 4, "at_once": 2}, [3, 4]),
        # A job that resumes within the range.
        ({"first": 3, "last": 5, "start": 3}, [4, 5]),
        ({"first": 3, "last": 5, "start": 4}, [5]),
        # Training stops within the range.
        ({"first": 3, "last": 50}, [3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_the_steps_of_the_range_are_traced_once(traces, options, steps):
    assert traced(traces, **options) == steps
    assert traces == [("start", "/logs"), ("stop",)]


def test_a_job_that_resumes_behind_the_range_traces_nothing(traces):
    assert traced(traces, first=3, last=5, start=5) == []
    assert traces == []


def test_validation_adds_its_metrics_and_leaves_out_what_is_undefined():
    logs = {"loss": 0.5}
    callbacks.Validation(lambda: {"loss": 0.25, "roc_auc": None, "accuracy": 0.0}).on_epoch_end(0, logs)
    assert logs == {"loss": 0.5, "val_loss": 0.25, "val_accuracy": 0.0}


def table(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_history_has_one_row_for_each_epoch_however_often_its_end_comes(tmp_path):
    path = epath.Path(tmp_path / "history.csv")
    state = State(10)
    callback = callbacks.History(state, path)
    callback.on_epoch_end(0, {"loss": tf.constant(0.5), "learning_rate": 0.1})
    state.progress.step = 20
    for loss in (0.75, 0.25):
        callback.on_epoch_end(1, {"loss": loss, "learning_rate": 0.01, "val_loss": 0.5})
    assert table(path) == [
        ["epoch", "step", "learning_rate", "loss", "val_loss"],
        ["1", "10", "0.1", "0.5", ""],
        ["2", "20", "0.01", "0.25", "0.5"],
    ]
    assert state.progress.history == [
        {"epoch": 1, "step": 10, "learning_rate": 0.1, "loss": 0.5},
        {"epoch": 2, "step": 20, "learning_rate": 0.01, "loss": 0.25, "val_loss": 0.5},
    ]
    assert state.calls == [("check", 10), ("check", 20), ("check", 20)], "the directory is still this job's"


def test_history_of_a_directory_that_belongs_to_another_process_is_not_written(tmp_path):
    state = State(10)

    def check():
        raise LostPeer("taken")

    state.check = check
    with pytest.raises(LostPeer, match="taken"):
        callbacks.History(state, epath.Path(tmp_path / "history.csv")).on_epoch_end(0, {"loss": 0.5, "learning_rate": 0.1})
    assert not list(tmp_path.iterdir())


def test_every_worker_keeps_the_history_and_the_chief_alone_writes_it(tmp_path):
    state = State(10, writes=False)
    callbacks.History(state, epath.Path(tmp_path / "history.csv")).on_epoch_end(0, {"loss": 0.5, "learning_rate": 0.1})
    assert len(state.progress.history) == 1
    assert not list(tmp_path.iterdir())


def test_each_epochs_end_is_saved():
    state = State(10)
    callbacks.ModelCheckpoint(state).on_epoch_end(0, {})
    assert state.calls == [("save_epoch", 10)]


@pytest.mark.parametrize(
    ("ratings", "patience", "expected"),
    [
        ((0.5, 0.4, 0.3), 2, True),
        ((0.5, 0.4, 0.3), 3, False),
        ((0.5, 0.4), 1, True),
        # An equal value is not a better one.
        ((0.5, 0.5, 0.5), 2, True),
        ((0.3, 0.4, 0.5), 1, False),
        ((0.5, 0.4, 0.3), 0, False),
        ((), 1, False),
    ],
)
def test_training_stops_early_after_so_many_epochs_without_a_better_value(caplog, ratings, patience, expected):
    caplog.set_level("INFO", logger="trainer")
    state = State(history=rows(*ratings))
    assert callbacks.exhausted(state.progress, patience) is expected
    callback = callbacks.EarlyStopping(state, patience=patience)
    callback.set_model(types.SimpleNamespace(stop_training=False))
    callback.on_epoch_end(0, {})
    assert callback.model.stop_training is expected
    assert caplog.messages == [f"training stops early: no better {MONITOR} for {patience} epochs"] * expected


@pytest.mark.parametrize(
    ("step", "epochs", "expected"),
    [
        # The last step of an epoch is done, and its row is not there.
        (10, 0, True),
        (20, 1, True),
        # ... and it is there.
        (10, 1, False),
        (20, 2, False),
        # Within an epoch.
        (9, 0, False),
        (11, 1, False),
        # The last step of the job, in the middle of an epoch.
        (25, 2, True),
        (24, 2, False),
        # Nothing is done yet.
        (0, 0, False),
    ],
)
def test_an_epoch_is_unfinished_if_its_steps_are_done_and_its_end_is_not(step, epochs, expected):
    progress = State(step, history=rows(*[0.5] * epochs)).progress
    assert callbacks.epoch_is_unfinished(progress, steps_per_epoch=STEPS_PER_EPOCH, last_step=25) is expected


def test_the_end_of_a_job_within_an_epoch_is_finished_once():
    progress = State(25, history=[*rows(0.5, 0.5), {"epoch": 3, "step": 25}]).progress
    assert not callbacks.epoch_is_unfinished(progress, steps_per_epoch=STEPS_PER_EPOCH, last_step=25)


class Recorder(keras.callbacks.Callback):
    def __init__(self, name):
        super().__init__()
        self.name, self.seen = name, None

    def on_epoch_end(self, epoch, logs):
        self.seen = (epoch, dict(logs), self.model)
        logs[self.name] = 1.0


@pytest.mark.parametrize(("step", "epoch"), [(10, 0), (20, 1), (13, 1), (1, 0)])
def test_finishing_an_epoch_calls_the_callbacks_in_order_with_the_restored_metrics(monkeypatch, step, epoch):
    state = State(step)
    loss = keras.metrics.Mean(name="loss")
    monkeypatch.setattr(state, "restore_metrics", lambda: loss.update_state(0.25))
    model = types.SimpleNamespace(metrics=[loss])
    first, second = Recorder("first"), Recorder("second")
    callbacks.finish_epoch(model, state, [first, second], steps_per_epoch=STEPS_PER_EPOCH)
    assert first.seen == (epoch, {"loss": 0.25}, model)
    assert second.seen == (epoch, {"loss": 0.25, "first": 1.0}, model)


def test_each_callback_has_what_keras_expects_of_one():
    state, vote = State(), StopVote(lambda: False, workers=1)
    folder = epath.Path("/logs")
    for callback in (
        callbacks.LearningRate(lambda step: 0.1, state, multiplier=lambda step: 0.1),
        callbacks.BackupAndRestore(state, every=1, steps_per_epoch=10, last_step=100, vote=vote),
        callbacks.Profile(state, folder, first=1, last=2),
        callbacks.Validation(dict),
        callbacks.History(state, folder / "history.csv"),
        callbacks.ModelCheckpoint(state),
        callbacks.EarlyStopping(state, patience=1),
    ):
        assert vars(keras.callbacks.Callback()).keys() <= vars(callback).keys()


def test_no_step_waits_for_its_metrics(monkeypatch):
    """Keras reads them from the device before it calls a callback that has not said that it takes tensors."""

    def read(logs):
        raise AssertionError("the step waits")

    monkeypatch.setattr(tf_utils, "sync_to_numpy_or_python_type", read)
    state = State()
    vote = StopVote(lambda: False, workers=1)
    backup = callbacks.BackupAndRestore(state, every=1000, steps_per_epoch=10, last_step=100, vote=vote)
    backup.set_model(types.SimpleNamespace())
    for callback in (learning_rate(state), backup, callbacks.Profile(state, epath.Path("/logs"), first=50, last=51)):
        keras.callbacks.CallbackList([callback]).on_train_batch_end(0, {"loss": tf.constant(0.5)})
