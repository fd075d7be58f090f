"""The callbacks of `fit`.

At an epoch's end Keras calls them in the order in which `loop.train` lists them: each adds to the epoch's metrics, or stores
them.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.errors import UserError
from trainer.job import history
from trainer.process import heartbeat
from trainer.storage import files
from trainer.training.checkpoints import Progress, TrainingState
from trainer.training.consensus import StopVote

_log = logging.getLogger(__name__)

Logs = dict[str, Any]


class LearningRate(keras.callbacks.LearningRateScheduler):
    """Sets the learning rate before every step, where Keras's own callback sets it once an epoch.

    The epoch's metrics get the rate of its last step, `learning_rate`.
    """

    def __init__(self, rate: Callable[[int], float], state: TrainingState, *, multiplier: Callable[[int], float]) -> None:
        """Args:
        rate: the learning rate as a function of the global step.
        state: the training state, which holds the global step.
        multiplier: the factor of the learning rate for a pretrained backbone, as a function of the global step.
        """
        super().__init__(rate)
        self._supports_tf_logs = True
        self._state, self._multiplier = state, multiplier

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Does nothing: the rate changes with each step."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Sets the rate of the next step, or of the next --steps_per_execution steps, which run in one call."""
        step = self._state.progress.step
        self.model.optimizer.learning_rate = self.schedule(step)
        if self.model.pretrained is not None:
            self.model.pretrained.multiplier.assign(self._multiplier(step))

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Adds the rate of the epoch's last step to the metrics."""
        # The shortest number that is this float32.
        logs["learning_rate"] = float(str(self.model.optimizer.learning_rate.numpy()))


class BackupAndRestore(keras.callbacks.Callback):
    """Saves a job's whole state every so many steps, so that a killed job goes on at the step of the last backup.

    Keras's callback of this name restores only model and epoch: the input starts over, the running metrics of a half epoch are
    lost, and an epoch whose last step was backed up loses its validation and its row in the history.

    It also ends training after the step on which the workers agree (`consensus.StopVote`): before a step it casts this worker's
    vote, and after a step it takes the sum of all votes out of the step's metrics.
    """

    def __init__(self, state: TrainingState, *, every: int, steps_per_epoch: int, last_step: int, vote: StopVote) -> None:
        """Args:
        state: the training state to save, after `restore` was called on it.
        every: the number of steps between two backups.
        steps_per_epoch: the number of steps in an epoch.
        last_step: the global step at which training ends.
        vote: the workers' vote on whether to stop.
        """
        super().__init__()
        self._supports_tf_logs = True  # Keras then leaves the metrics on the device, and no step waits for them (also below).
        self._state, self._every, self._vote = state, every, vote
        self._steps_per_epoch, self._last_step = steps_per_epoch, last_step
        self._in_epoch = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Makes `fit` begin at the restored step, which may be in the middle of an epoch."""
        self._in_epoch = self._state.progress.step % self._steps_per_epoch > 0
        # `fit` asks this attribute where to begin; Keras's own BackupAndRestore sets it to an object with the method below.
        self.model._training_state = self

    def maybe_load_initial_counters_from_ckpt(self, steps_per_epoch: int, initial_epoch: int, mode: str) -> tuple[int, int]:
        """Returns the epoch, and the step within it, at which `fit` begins."""
        return divmod(self._state.progress.step, steps_per_epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Gives a resumed epoch its running metrics back, because `fit` has just reset them."""
        if self._in_epoch:
            self._state.restore_metrics()
            self._in_epoch = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Casts this worker's vote on whether to stop."""
        self._vote.before_step()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Counts the step, and saves the state where a backup is due.

        Raises:
          Stopped: this process was asked to stop; the state is saved.
          LostPeer: another worker was asked to stop; the state is saved.
          UserError: the loss is not finite.
        """
        heartbeat.beat(heartbeat.STEP)
        progress = self._state.progress
        before = progress.step
        progress.step = before // self._steps_per_epoch * self._steps_per_epoch + batch + 1
        ends = progress.step % self._steps_per_epoch == 0 or progress.step >= self._last_step
        stop = self._vote.after_step(logs)
        if ends or stop or progress.step // self._every > before // self._every:
            # A state with a loss that is not finite must not replace the older, good ones.
            _check_finite(float(logs["loss"]), progress.step)
            self._state.back_up()
            if self._state.writes and not ends:
                _log.info("saved step %d", progress.step)
        if stop:
            self._vote.leave(progress.step)
        if progress.step >= self._last_step:
            self.model.stop_training = True


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}: lower --learning_rate, raise --warmup_epochs, "
            "or find the operation with --debug_nans"
        )


class Profile(keras.callbacks.Callback):
    """Writes a trace of some steps for TensorBoard; Keras's own counts calls since the process started, not global steps."""

    def __init__(self, state: TrainingState, logs: epath.Path, *, first: int, last: int) -> None:
        """Args:
        state: the training state, which holds the global step.
        logs: the folder of TensorBoard's files.
        first: the first global step to trace, counted from 1.
        last: the last global step to trace.
        """
        super().__init__()
        self._supports_tf_logs = True
        self._state, self._logs, self._first, self._last = state, logs, first, last
        self._tracing = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Starts the trace before its first step."""
        if not self._tracing and self._first <= self._state.progress.step + 1 <= self._last:
            tf.profiler.experimental.start(str(self._logs))
            self._tracing = True

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Ends the trace after its last step."""
        if self._tracing and self._state.progress.step >= self._last:
            tf.profiler.experimental.stop()
            self._tracing = False

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Ends the trace where training stopped within it."""
        if self._tracing:
            tf.profiler.experimental.stop()


class Validation(keras.callbacks.Callback):
    """Adds the metrics of the validation split, each with `val_` before its name; one that is undefined is left out."""

    def __init__(self, validate: Callable[[], Mapping[str, float | None]]) -> None:
        """Args:
        validate: evaluates the model as it is now, and returns its metrics by name, None for one that is undefined.
        """
        super().__init__()
        self._validate = validate

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Evaluates the model, and adds the metrics."""
        logs.update({f"val_{name}": value for name, value in self._validate().items() if value is not None})


class History(keras.callbacks.Callback):
    """Writes history.csv: one row for each epoch, however often the job was interrupted."""

    def __init__(self, state: TrainingState, path: epath.Path) -> None:
        """Args:
        state: the training state, which holds the rows.
        path: the path of history.csv.
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
    """Saves the state after each epoch, and the weights of the best epoch."""

    def __init__(self, state: TrainingState) -> None:
        """Args:
        state: the training state to save.
        """
        super().__init__()
        self._state = state

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Saves the state, and the weights if the epoch was the best."""
        self._state.save_epoch()


class EarlyStopping(keras.callbacks.Callback):
    """Stops training when the validation mean average precision has not risen for some epochs.

    It decides by the history, which a resumed job has in full; Keras's own callback would start to count anew.
    """

    def __init__(self, state: TrainingState, *, patience: int) -> None:
        """Args:
        state: the training state, which holds the history.
        patience: the number of epochs without a better value after which training stops; 0 for never.
        """
        super().__init__()
        self._state, self._patience = state, patience

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Stops training if the last epochs brought no better value."""
        if exhausted(self._state.progress, self._patience):
            self.model.stop_training = True
            _log.info("training stops early: no better %s for %d epochs", history.MONITOR, self._patience)


def exhausted(progress: Progress, patience: int) -> bool:
    """Returns whether the last `patience` epochs brought no better value than the epochs before; never for 0."""
    if not patience or not progress.history:
        return False
    return len(progress.history) - history.best(progress.history)["epoch"] >= patience


def epoch_is_unfinished(progress: Progress, *, steps_per_epoch: int, last_step: int) -> bool:
    """Returns whether a job was killed after the last step of an epoch and before the epoch's row in the history was saved."""
    at_end = progress.step % steps_per_epoch == 0 or progress.step >= last_step
    done = progress.history[-1]["step"] if progress.history else 0
    return at_end and done < progress.step


def finish_epoch(
    model: keras.Model, state: TrainingState, callbacks: list[keras.callbacks.Callback], *, steps_per_epoch: int
) -> None:
    """Runs the callbacks of an epoch's end, which `fit` does not do for an epoch without steps left.

    Args:
      model: the compiled network, with the restored weights.
      state: the training state, whose step is the last of the epoch.
      callbacks: the callbacks of `fit`, in their order.
      steps_per_epoch: the number of steps in an epoch.
    """
    epoch = (state.progress.step - 1) // steps_per_epoch
    state.restore_metrics()
    logs = {metric.name: float(metric.result()) for metric in model.metrics}
    for callback in callbacks:
        callback.set_model(model)
        callback.on_epoch_end(epoch, logs)
