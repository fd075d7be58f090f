"""What the log says of training, with a clock that the test moves."""

import logging
import types

import pytest
import tf_keras as keras
from tf_keras.src.utils import tf_utils

from trainer.process import log
from trainer.training import watch
from trainer.training.checkpoints import Progress
from trainer.training.watch import Watch

STEPS_PER_EPOCH = 100


class Training:
    """Calls a `Watch` as `fit` does, with steps that take a second each."""

    def __init__(self, monkeypatch, *, first_step=0, log_steps=0, epochs=3, is_chief=True, summed_replicas=1, last_step=None):
        self.now = 1000.0
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        self.progress = Progress()
        self.progress.step = first_step
        self.watch = Watch(
            self.progress,
            batch_size=32,
            steps_per_epoch=STEPS_PER_EPOCH,
            epochs=epochs,
            last_step=last_step or epochs * STEPS_PER_EPOCH,
            log_steps=log_steps,
            is_chief=is_chief,
            summed_replicas=summed_replicas,
        )
        self.losses_read = 0
        metrics = [types.SimpleNamespace(name="accuracy"), types.SimpleNamespace(name="loss", result=self.loss)]
        self.watch.set_model(types.SimpleNamespace(metrics=metrics))
        self.watch.on_train_begin()

    def loss(self):
        self.losses_read += 1
        return 0.25

    def steps(self, count, *, seconds=1.0):
        for _ in range(count):
            if self.progress.step % STEPS_PER_EPOCH == 0:
                self.watch.on_epoch_begin(self.progress.step // STEPS_PER_EPOCH)
            self.now += seconds
            self.progress.step += 1
            # With one worker this is not the mean over the epoch, with several it is the sum over their replicas.
            self.watch.on_train_batch_end((self.progress.step - 1) % STEPS_PER_EPOCH, {"loss": 0.75})

    def end_epoch(self, *, seconds=50.0, **metrics):
        self.now += seconds  # Of validation, which is not training.
        epoch = (self.progress.step - 1) // STEPS_PER_EPOCH
        self.watch.on_epoch_end(epoch, {"loss": 0.25, **metrics})


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(log, "is_terminal", lambda: False)
    caplog.set_level(logging.INFO, logger="trainer")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_comes_at_most_every_half_minute_and_ten_times_an_epoch(monkeypatch, lines):
    training = Training(monkeypatch)
    training.steps(100)
    told = [int(line.split()[1]) for line in lines()]
    assert told == [30, 60, 90]
    training.end_epoch()
    slow = len(lines())
    training.steps(99, seconds=20)
    told = [int(line.split()[1]) for line in lines()[slow:]]
    assert told == list(range(110, 200, 10))


def test_a_line_has_the_speed_without_the_first_call_and_the_time_that_is_left(monkeypatch, lines):
    training = Training(monkeypatch)
    training.steps(1, seconds=60)  # It compiles.
    training.steps(9)
    assert lines() == ["step 10 of 300: loss 0.2500, 32 images/s, 0:04:50 left"]


def test_the_loss_that_keras_sums_over_the_replicas_of_several_workers_is_their_mean(monkeypatch, lines):
    for replicas, loss in ((1, "0.2500"), (2, "0.3750"), (3, "0.2500"), (4, "0.1875")):
        training = Training(monkeypatch, log_steps=1, summed_replicas=replicas)
        training.steps(1)
        assert lines()[-1] == f"step 1 of 300: loss {loss}", "and no speed, because the first step compiles"


def test_a_slow_job_has_a_speed_with_two_digits(monkeypatch, lines):
    training = Training(monkeypatch, log_steps=2)
    training.steps(2, seconds=20)
    assert lines() == ["step 2 of 300: loss 0.2500, 1.6 images/s, 1:39:20 left"]


def test_an_epochs_speed_leaves_out_the_validation_before_it(monkeypatch, lines):
    training = Training(monkeypatch, log_steps=150)
    training.steps(100)
    training.end_epoch(seconds=5000)
    training.steps(100)
    training.end_epoch()
    assert lines()[1] == "step 150 of 300: loss 0.2500, 32 images/s, 0:02:30 left"
    assert lines()[2] == "epoch 2 of 3, step 200: loss 0.2500, 32 images/s"


def test_a_job_that_resumes_counts_its_lines_from_there(monkeypatch, lines):
    training = Training(monkeypatch, first_step=25, log_steps=10)
    training.watch.on_epoch_begin(0)
    training.steps(10)
    assert [line.split(":")[0] for line in lines()] == ["step 30 of 300"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_last_step_has_no_line_of_its_own_and_ends_the_bar(monkeypatch, lines, is_terminal):
    monkeypatch.setattr(log, "is_terminal", lambda: is_terminal)
    training = Training(monkeypatch, log_steps=30, last_step=60)
    training.steps(59)
    assert (training.watch._bar is not None) is is_terminal
    training.steps(1)
    assert training.watch._bar is None
    assert [line.split(":")[0] for line in lines()] == ([] if is_terminal else ["step 30 of 60"])


def test_a_bar_asks_the_device_for_the_loss_once_a_second(monkeypatch, lines, capsys):
    monkeypatch.setattr(log, "is_terminal", lambda: True)
    training = Training(monkeypatch)
    training.steps(12, seconds=0.25)
    assert training.losses_read == 3
    assert training.watch._bar is not None
    assert training.watch._bar.n == 12
    assert "loss" not in capsys.readouterr().err, "tqdm alone decides when to draw"
    training.watch.on_train_end()


def test_training_that_ends_within_an_epoch_leaves_no_bar(monkeypatch, lines, capsys):
    monkeypatch.setattr(log, "is_terminal", lambda: True)
    training = Training(monkeypatch)
    training.steps(5)
    bar = training.watch._bar
    assert bar is not None
    training.watch.on_train_end()
    assert training.watch._bar is None
    assert capsys.readouterr().err.endswith(" \r"), "the line is blank again"


def test_no_step_waits_for_its_metrics(monkeypatch, lines):
    """Keras reads them from the device before it calls a callback that has not said that it takes tensors."""

    def read(logs):
        raise AssertionError("the step waits")

    monkeypatch.setattr(tf_utils, "sync_to_numpy_or_python_type", read)
    keras.callbacks.CallbackList([Training(monkeypatch).watch]).on_train_batch_end(0, {"loss": 0.75})


def test_log_steps_says_after_how_many_steps(monkeypatch, lines):
    training = Training(monkeypatch, log_steps=40)
    training.steps(100)
    assert [int(line.split()[1]) for line in lines()] == [40, 80]


def test_an_epochs_line_fits_120_columns_with_the_workers_and_the_times_prefixes(monkeypatch, lines):
    training = Training(monkeypatch, epochs=100)
    training.progress.step = 99 * STEPS_PER_EPOCH
    training.steps(100)
    metrics = {f"val_{name}": 0.123456 for name in ("loss", "accuracy", "mean_average_precision", "f1_micro", "roc_auc")}
    training.end_epoch(learning_rate=1e-5, **metrics)
    line = lines()[-1]
    assert line == ("epoch 100 of 100, step 10000: loss 0.2500, val_loss 0.1235, val_mAP 0.1235, val_F1 0.1235, 32 images/s")
    assert len(f"[0] 16:17:06 {line}") <= 120


def test_a_job_that_resumes_at_an_epochs_end_has_made_no_step_whose_speed_is_known(monkeypatch, lines):
    training = Training(monkeypatch, first_step=STEPS_PER_EPOCH)
    training.end_epoch()
    assert lines() == ["epoch 1 of 3, step 100: loss 0.2500"]


def test_a_job_that_resumes_within_an_epoch_counts_the_steps_that_this_process_has_made(monkeypatch, lines):
    training = Training(monkeypatch, first_step=90)
    training.watch.on_epoch_begin(0)
    training.steps(10)
    training.end_epoch()
    assert lines()[-1].endswith(", 32 images/s")


def test_every_worker_stamps_its_lines_and_the_chief_alone_tells(monkeypatch, lines):
    training = Training(monkeypatch, first_step=200, log_steps=1, is_chief=False)
    assert log._step == 200
    training.steps(3)
    training.end_epoch()
    assert log._step == 203
    assert lines() == []


def test_a_terminal_has_a_bar_that_goes_with_the_epoch(monkeypatch, lines, capsys):
    monkeypatch.setattr(log, "is_terminal", lambda: True)
    training = Training(monkeypatch, first_step=90)
    training.watch.on_epoch_begin(0)
    assert "epoch 1 of 3  90%" in capsys.readouterr().err
    training.steps(9)
    assert training.watch._bar is not None
    assert (training.watch._bar.n, training.watch._bar.postfix) == (99, "loss 0.2500, 32 images/s, 0:03:21 left")
    training.steps(1)
    assert training.watch._bar is None
    training.end_epoch()
    assert [line.split(":")[0] for line in lines()] == ["epoch 1 of 3, step 100"]
