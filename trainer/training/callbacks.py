"""The callbacks of `fit`.

They act at the end of an epoch in the order in which `task` lists them: each adds to the epoch's figures, or keeps
them.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.errors import UserError
from trainer.job import history
from trainer.process import heartbeat, log
from trainer.storage import files
from trainer.training.checkpoints import Progress, TrainingState
from trainer.training.consensus import StopVote

_log = logging.getLogger(__name__)

Logs = dict[str, Any]


class LearningRate(keras.callbacks.LearningRateScheduler):
    """Sets the learning rate before every step, where Keras's own does it once an epoch, and reports the last that was used."""

    def __init__(self, rate: Callable[[int], float], state: TrainingState, *, multiplier: Callable[[int], float]) -> None:
        """Args:
        rate: the learning rate as a function of the global step.
        state: holds the global step.
        multiplier: of it for the network's pretrained part, if there is one, likewise.
        """
        super().__init__(rate)
        self._supports_tf_logs = True
        self._state, self._multiplier = state, multiplier

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Does nothing: the rate is a matter of steps."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Sets the rate of the coming step, or steps: --steps_per_execution runs several in one call."""
        step = self._state.progress.step
        self.model.optimizer.learning_rate = self.schedule(step)
        if self.model.pretrained is not None:
            self.model.pretrained.multiplier.assign(self._multiplier(step))

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Adds the rate of the epoch's last step."""
        # The shortest number that is this float32.
        logs["learning_rate"] = float(str(self.model.optimizer.learning_rate.numpy()))


class BackupAndRestore(keras.callbacks.Callback):
    """Keeps a job's whole state, so that a killed job goes on at the step it had reached.

    Keras's callback of this name restores model and epoch only: the input starts over, the running metrics of a half
    epoch are lost, and an epoch whose last step was backed up loses its validation and its history row.
    """

    def __init__(self, state: TrainingState, *, every: int, steps_per_epoch: int, last_step: int, vote: StopVote) -> None:
        """Args:
        state: what is saved; `restore` was called on it.
        every: steps between two backups.
        steps_per_epoch: steps in an epoch.
        last_step: the global step at which training ends.
        vote: whether training is to stop.
        """
        super().__init__()
        self._supports_tf_logs = True  # Keras then leaves the figures on the device, and no step waits for them (also below).
        self._state, self._every, self._vote = state, every, vote
        self._steps_per_epoch, self._last_step = steps_per_epoch, last_step
        self._in_epoch = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Has `fit` begin in the middle of an epoch where that is where the job was."""
        self._in_epoch = self._state.progress.step % self._steps_per_epoch > 0
        # The attribute through which Keras's own BackupAndRestore tells `fit` where to begin.
        self.model._training_state = self

    def maybe_load_initial_counters_from_ckpt(self, steps_per_epoch: int, initial_epoch: int, mode: str) -> tuple[int, int]:
        """The epoch and the step in it with which `fit` begins."""
        return divmod(self._state.progress.step, steps_per_epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Gives a resumed epoch its running metrics back, which `fit` has just reset."""
        if self._in_epoch:
            self._state.restore_metrics()
            self._in_epoch = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Votes on whether to stop."""
        self._vote.before_step()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Counts the step, and saves where it is time to.

        Raises:
          Stopped: someone asked the process to stop; the state is saved.
          LostPeer: someone asked another worker to stop; the state is saved.
          UserError: the loss is not finite.
        """
        heartbeat.beat(heartbeat.STEP)
        progress = self._state.progress
        before = progress.step
        progress.step = before // self._steps_per_epoch * self._steps_per_epoch + batch + 1
        ends = progress.step % self._steps_per_epoch == 0 or progress.step >= self._last_step
        stop = self._vote.after_step(logs)
        if ends or stop or progress.step // self._every > before // self._every:
            # A state that has come to nothing must not push out the ones before it.
            _check_finite(float(logs["loss"]), progress.step)
            self._state.back_up()
        if stop:
            self._vote.leave(progress.step)
        if progress.step >= self._last_step:
            self.model.stop_training = True


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}: lower --learning_rate, lengthen --warmup_epochs, "
            "or find the operation with --debug_nans"
        )


class Profile(keras.callbacks.Callback):
    """Writes a trace of some steps for TensorBoard; Keras's own counts calls since the process began, not steps."""

    def __init__(self, state: TrainingState, logs: epath.Path, *, first: int, last: int) -> None:
        """Args:
        state: holds the global step.
        logs: TensorBoard's folder.
        first: the first global step to trace, from 1.
        last: the last.
        """
        super().__init__()
        self._supports_tf_logs = True
        self._state, self._logs, self._first, self._last = state, logs, first, last
        self._tracing = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Begins."""
        if not self._tracing and self._first <= self._state.progress.step + 1 <= self._last:
            tf.profiler.experimental.start(str(self._logs))
            self._tracing = True

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Ends."""
        if self._tracing and self._state.progress.step >= self._last:
            tf.profiler.experimental.stop()
            self._tracing = False

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Ends where training stopped early."""
        if self._tracing:
            tf.profiler.experimental.stop()


class Validation(keras.callbacks.Callback):
    """Adds the figures of the validation split, each with `val_` before its name; an undefined one is left out."""

    def __init__(self, figures: Callable[[], Mapping[str, float | None]]) -> None:
        """Args:
        figures: evaluates the model as it is now.
        """
        super().__init__()
        self._figures = figures

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Evaluates."""
        logs.update({f"val_{name}": value for name, value in self._figures().items() if value is not None})


class History(keras.callbacks.Callback):
    """Writes history.csv: a row for each epoch, each once, whatever happened."""

    def __init__(self, state: TrainingState, path: epath.Path) -> None:
        """Args:
        state: holds the rows.
        path: the file.
        """
        super().__init__()
        self._state, self._path = state, path

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Adds the epoch's row."""
        progress = self._state.progress
        row = {"epoch": epoch + 1, "step": progress.step, "learning_rate": logs["learning_rate"]}
        progress.history = [*progress.history[:epoch], row | {name: float(value) for name, value in logs.items()}]
        if self._state.writes:
            self._state.check()
            files.write(self._path, files.csv_bytes(history.columns(progress.history), progress.history))


class ModelCheckpoint(keras.callbacks.Callback):
    """Keeps the state after each epoch, and the weights of the best one."""

    def __init__(self, state: TrainingState) -> None:
        """Args:
        state: what is saved.
        """
        super().__init__()
        self._state = state

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Saves."""
        self._state.save_epoch()


class EarlyStopping(keras.callbacks.Callback):
    """Stops training when the validation mean average precision has not risen for some epochs.

    It goes by the history, which a resumed job has whole, where Keras's own starts counting anew.
    """

    def __init__(self, state: TrainingState, *, patience: int) -> None:
        """Args:
        state: holds the history.
        patience: epochs without a better figure; 0: never stops.
        """
        super().__init__()
        self._state, self._patience = state, patience

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Decides."""
        if exhausted(self._state.progress, self._patience):
            self.model.stop_training = True
            _log.info("no better %s for %d epochs: training stops", history.MONITOR, self._patience)


def exhausted(progress: Progress, patience: int) -> bool:
    """Returns whether the last `patience` epochs (0: never) brought nothing better."""
    if not patience or not progress.history:
        return False
    return len(progress.history) - history.best(progress.history)["epoch"] >= patience


class EpochLine(keras.callbacks.Callback):
    """Logs one line an epoch, and stamps every log line with the step."""

    def __init__(self, state: TrainingState, *, batch_size: int, epochs: int) -> None:
        """Args:
        state: holds the step and the history.
        batch_size: films a step.
        epochs: how many epochs there will be.
        """
        super().__init__()
        self._supports_tf_logs = True
        self._state, self._batch_size, self._epochs = state, batch_size, epochs
        self._first_step, self._started, self._ended = 0, 0.0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts the clock."""
        self._first_step, self._started = self._state.progress.step, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Takes the time, so that validation does not count as training."""
        log.at_step(self._state.progress.step)
        self._ended = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Logs."""
        films = (self._state.progress.step - self._first_step) * self._batch_size
        seconds = max(self._ended - self._started, 1e-9)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        _log.info("epoch %d of %d: %s, %.4g images/s", epoch + 1, self._epochs, figures, films / seconds)


def epoch_is_unfinished(progress: Progress, *, steps_per_epoch: int, last_step: int) -> bool:
    """Returns whether a job was killed between the last step of an epoch and the epoch's end."""
    at_end = progress.step % steps_per_epoch == 0 or progress.step >= last_step
    done = progress.history[-1]["step"] if progress.history else 0
    return at_end and done < progress.step


def finish_epoch(
    model: keras.Model, state: TrainingState, callbacks: list[keras.callbacks.Callback], *, steps_per_epoch: int
) -> None:
    """Does what `fit` would have done at an epoch's end; `fit` itself takes no epoch that has no steps left."""
    epoch = (state.progress.step - 1) // steps_per_epoch
    state.restore_metrics()
    logs = {metric.name: float(metric.result()) for metric in model.metrics}
    for callback in callbacks:
        callback.set_model(model)
        callback.on_epoch_end(epoch, logs)
