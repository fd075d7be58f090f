"""What a person sees of training: lines in the log, or a progress bar on a terminal."""

import datetime
import logging
import math
import time
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from trainer.process import log, progress
from trainer.training.checkpoints import Progress

_log = logging.getLogger(__name__)

_LINES_PER_EPOCH = 10
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_LOSSES = 1.0  # On a bar: reading the loss waits for the device.

# What an epoch's line says of the validation split, by the names that history.csv has; all else is in that file.
_VALIDATION = {"val_loss": "val_loss", "val_mean_average_precision": "val_mAP", "val_f1_micro": "val_F1"}


class Watch(keras.callbacks.Callback):
    """Stamps each log line with the step, and tells on the chief how training goes.

    Within an epoch it logs lines such as `step 140 of 900: loss 0.2412, 352 images/s, 0:02:18 left`, or draws a bar; the loss is
    the mean over the epoch so far. At an epoch's end it logs one line with the most important metrics.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        batch_size: int,
        steps_per_epoch: int,
        epochs: int,
        last_step: int,
        log_steps: int,
        is_chief: bool,
        summed_replicas: int,
    ) -> None:
        """Args:
        progress: the state's progress, whose step another callback has brought up to date before this one is called.
        batch_size: the number of films in a step, over all replicas.
        steps_per_epoch: the number of steps in an epoch.
        epochs: the number of epochs of the job.
        last_step: the global step at which training ends unless it stops early.
        log_steps: the number of steps between two lines; 0 for about ten lines an epoch, at least 30 s apart.
        is_chief: whether this worker logs; the others only stamp their lines.
        summed_replicas: the number of replicas of several workers, over which Keras sums the loss that it reports within an epoch;
          1 for one worker.
        """
        super().__init__()
        self._supports_tf_logs = True  # Keras then leaves the metrics on the device, and no step waits for them.
        self._progress, self._is_chief = progress, is_chief
        self._batch_size, self._steps_per_epoch = batch_size, steps_per_epoch
        self._epochs, self._last_step, self._log_steps = epochs, last_step, log_steps
        self._summed_replicas = summed_replicas
        self._clock: _Clock | None = None  # Since the epoch began; without the first call of the process, which compiles.
        self._has_compiled = False
        self._bar: tqdm | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begins to count the time to the first line."""
        log.at_step(self._progress.step)
        self._line_step, self._line_time = self._progress.step, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock, and draws the bar."""
        self._clock = _Clock(self._progress.step) if self._has_compiled else None
        if self._is_chief and log.is_terminal():
            self._bar = progress.bar(
                desc=f"epoch {epoch + 1} of {self._epochs}",
                total=self._steps_per_epoch,
                initial=self._progress.step - epoch * self._steps_per_epoch,
                # With the loss, the speed and the time left it fits into 80 columns.
                bar_format="{desc} {percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt}{postfix}",
                leave=False,
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        """Logs a line where it is due, or moves the bar."""
        step = self._progress.step
        log.at_step(step)
        if self._clock is None:
            self._clock, self._has_compiled = _Clock(step), True
        self._clock.step(step)
        if not self._is_chief:
            return
        ends_epoch = step % self._steps_per_epoch == 0 or step >= self._last_step
        if self._bar is not None:
            self._move_bar(self._bar, batch + 1, logs, is_last=ends_epoch)
        elif not ends_epoch and self._is_due(step):
            _log.info("step %d of %d: %s", step, self._last_step, ", ".join(self._status(logs)))
            self._line_step, self._line_time = step, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Logs the epoch's line."""
        if not self._is_chief:
            return
        metrics = [f"loss {float(logs['loss']):.4f}"]
        metrics += [f"{short} {float(logs[name]):.4f}" for name, short in _VALIDATION.items() if name in logs]
        metrics += self._speed()
        _log.info("epoch %d of %d, step %d: %s", epoch + 1, self._epochs, self._progress.step, ", ".join(metrics))
        self._line_step, self._line_time = self._progress.step, time.monotonic()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Removes a bar that training has left in the middle of an epoch."""
        self._close_bar()

    def _is_due(self, step: int) -> bool:
        if self._log_steps:
            return step // self._log_steps > self._line_step // self._log_steps
        steps = math.ceil(self._steps_per_epoch / _LINES_PER_EPOCH)
        return step - self._line_step >= steps and time.monotonic() - self._line_time >= _SECONDS_BETWEEN_LINES

    def _status(self, logs: dict[str, Any]) -> list[str]:
        status = [f"loss {self._loss(logs):.4f}", *self._speed()]
        seconds = self._clock.seconds_per_step if self._clock else None
        if seconds is not None:
            left = round((self._last_step - self._progress.step) * seconds)
            status.append(f"{datetime.timedelta(seconds=left)} left")
        return status

    def _loss(self, logs: dict[str, Any]) -> float:
        """Returns the mean loss of the epoch so far."""
        if self._summed_replicas > 1:
            return float(logs["loss"]) / self._summed_replicas
        # What Keras reports of one worker's replicas depends on the strategy. To ask the metric itself takes all workers.
        return float(next(metric for metric in self.model.metrics if metric.name == "loss").result())

    def _speed(self) -> list[str]:
        """Returns the speed of this epoch in words; nothing where this process has made no step that can be timed."""
        seconds = self._clock.seconds_per_step if self._clock else None
        if not seconds:
            return []
        rate = self._batch_size / seconds
        return [f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"]

    def _move_bar(self, bar: tqdm, done: int, logs: dict[str, Any], *, is_last: bool) -> None:
        now = time.monotonic()
        if now - self._line_time >= _SECONDS_BETWEEN_LOSSES:
            bar.set_postfix_str(", ".join(self._status(logs)), refresh=False)
            self._line_time = now
        bar.update(done - bar.n)
        if is_last:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Clock:
    """The time that steps take, from a step on."""

    def __init__(self, step: int) -> None:
        self._first_step = self._last_step = step
        self._first_time = self._last_time = time.monotonic()

    def step(self, step: int) -> None:
        """Notes that the steps up to this one are done."""
        self._last_step, self._last_time = step, time.monotonic()

    @property
    def seconds_per_step(self) -> float | None:
        """The mean time of a step, in seconds; None before the first."""
        steps = self._last_step - self._first_step
        return (self._last_time - self._first_time) / steps if steps else None
