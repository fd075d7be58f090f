"""What the log says of training, with a clock that the test moves."""

import logging
import types

import pytest

from trainer.process import log
from trainer.training import watch
from trainer.training.checkpoints import Progress
from trainer.training.watch import Watch

STEPS_PER_EPOCH = 100


class Training:
    """Calls a `Watch` as `fit` does, with steps that take a second each."""

    def __init__(self, monkeypatch, *, first_step=0, log_steps=0, epochs=3, is_chief=True, summed_replicas=1):
        self.now = 1000.0
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        self.progress = Progress()
        self.progress.step = first_step
        self.watch = Watch(
            self.progress,
            batch_size=32,
            steps_per_epoch=STEPS_PER_EPOCH,
            epochs=epochs,
            last_step=epochs * STEPS_PER_EPOCH,
            log_steps=log_steps,
            is_chief=is_chief,
            summed_replicas=summed_replicas,
        )
        loss = types.SimpleNamespace(name="loss", result=lambda: 0.25)
        self.watch.set_model(types.SimpleNamespace(metrics=[loss]))
        self.watch.on_train_begin()

    def steps(self, count, *, seconds=1.0):
        for _ in range(count):
            if self.progress.step % STEPS_PER_EPOCH == 0:
                self.watch.on_epoch_begin(self.progress.step // STEPS_PER_EPOCH)
            self.now += seconds
            self.progress.step += 1
            self.watch.on_train_batch_end((self.progress.step - 1) % STEPS_PER_EPOCH, {"loss": 0.25})

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
    training = Training(monkeypatch, log_steps=1, summed_replicas=4)
    training.steps(1)
    assert lines()[0].startswith("step 1 of 300: loss 0.0625")


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
