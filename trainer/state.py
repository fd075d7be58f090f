"""What a killed job resumes from: weights, optimizer, running metrics, position and history, in TensorFlow checkpoints.

Three places hold them, all written by `tf.train.CheckpointManager`, under a fresh name each time; a checkpoint becomes
real when the pointer file beside it is replaced.

  backup/            the whole state, every so many steps and at the end of an epoch's steps; the newest two
  checkpoints/last   the whole state after the last finished epoch, its validation and history row included
  checkpoints/best   the weights alone, of the epoch with the best validation mean average precision
"""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from etils import epath

_log = logging.getLogger(__name__)

Row = dict[str, Any]
"""An epoch's line of history.csv."""

MONITOR = "val_mean_average_precision"
"""The figure that the best checkpoint and early stopping go by."""


class Progress(tf.train.experimental.PythonState):
    """How far training has come.

    Attributes:
      step: global steps taken.
      history: a row for each finished epoch.
      metrics: of each variable of the running metrics, its values by replica.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.history: list[Row] = []
        self.metrics: list[list[Any]] = []

    def serialize(self) -> str:
        """As JSON, whose floats come back exactly."""
        return json.dumps({"step": self.step, "history": self.history, "metrics": self.metrics})

    def deserialize(self, string_value: str) -> None:
        """The inverse of `serialize`."""
        values = json.loads(string_value)
        self.step, self.history, self.metrics = values["step"], values["history"], values["metrics"]

    def best(self) -> Row | None:
        """The row of the epoch with the best `MONITOR`, the first of several; None before the first epoch's end."""
        rated = [row for row in self.history if row[MONITOR] is not None]
        return max(rated, key=lambda row: row[MONITOR], default=None)


class TrainingState:
    """Saves and restores the state of a compiled model and its `Progress`.

    Attributes:
      progress: how far training has come; whoever trains keeps it up to date.
    """

    def __init__(self, model: keras.Model, job_dir: epath.Path, *, check: Callable[[], None]) -> None:
        """Args:
        model: compiled, with its metrics and its optimizer's variables built.
        job_dir: where the checkpoints are.
        check: raises before a save if the directory is no longer this process's.
        """
        self.progress = Progress()
        self._model, self._check = model, check
        state = tf.train.Checkpoint(model=model, progress=self.progress)
        self._folder = job_dir / "backup"
        self._backups = _manager(state, self._folder, keep=2)
        self._last = _manager(state, job_dir / "checkpoints" / "last", keep=1)
        self._best = _manager(_weights(model), job_dir / "checkpoints" / "best", keep=1)

    def back_up(self) -> None:
        """Saves the state in the middle of an epoch, or between its steps and its end."""
        self._check()
        self.progress.metrics = [
            [replica.numpy().tolist() for replica in self._replicas(variable)] for variable in self._metric_variables()
        ]
        _save(self._backups, self.progress.step)

    def save_epoch(self) -> None:
        """Saves the state after an epoch's end, and the weights if the epoch was the best."""
        self._check()
        # The best weights first: a job killed between the two goes through the epoch's end again.
        if self.progress.best() in (None, self.progress.history[-1]):
            _save(self._best, self.progress.step)
        _save(self._last, self.progress.step)

    def restore_metrics(self) -> None:
        """Gives the running metrics the values that they had at the last backup.

        They are kept replica by replica, which a checkpoint of the metrics does not do: a sum of floats depends on its order.
        """
        for variable, values in zip(self._metric_variables(), self.progress.metrics, strict=True):
            replicas = self._replicas(variable)
            if len(values) != len(replicas):
                total = np.sum(values, axis=0)
                values = [total, *[np.zeros_like(total)] * (len(replicas) - 1)]
            for replica, value in zip(replicas, values, strict=True):
                replica.assign(value)

    def _metric_variables(self) -> list[tf.Variable]:
        return [variable for metric in self._model.metrics for variable in metric.variables]

    def _replicas(self, variable: tf.Variable) -> tuple[tf.Variable, ...]:
        return self._model.distribute_strategy.experimental_local_results(variable)

    def delete_backups(self) -> None:
        """Deletes backup/, once nothing is left to resume; a longer job goes on from checkpoints/last."""
        if self._folder.exists():
            self._folder.rmtree()

    def restore(self) -> bool:
        """Loads the newest state that can be read; a damaged one is named in the log and the one before it taken.

        Returns:
          Whether there was one.
        """
        for manager, path in self._newest_first():
            try:
                manager.checkpoint.restore(path).assert_existing_objects_matched()
            except Exception as error:  # A damaged file makes TensorFlow raise nearly anything, IndexError included.
                _log.warning("%s cannot be read and is left out: %s", path, " ".join(str(error).split())[:200])
            else:
                return True
        return False

    def _newest_first(self) -> Iterator[tuple[tf.train.CheckpointManager, str]]:
        # Of two at the same step the one in checkpoints/last is the newer: it has the epoch's end behind it.
        found = [(_step(path), order, path) for order, m in enumerate((self._backups, self._last)) for path in m.checkpoints]
        for _, order, path in sorted(found, reverse=True):
            yield (self._backups, self._last)[order], path


def restore_best(model: keras.Model, job_dir: epath.Path) -> None:
    """Loads the weights of a job's best epoch.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    path = tf.train.latest_checkpoint(str(job_dir / "checkpoints" / "best"))
    if path is None:
        raise FileNotFoundError(f"no checkpoint in {job_dir / 'checkpoints' / 'best'}")
    _weights(model).restore(path).assert_existing_objects_matched().expect_partial()


def _weights(model: keras.Model) -> tf.train.Checkpoint:
    # By its layers: a checkpoint of the model itself would hold the optimizer too, and be three times as large.
    return tf.train.Checkpoint(layers=model.layers)


def _manager(checkpoint: tf.train.Checkpoint, folder: epath.Path, *, keep: int) -> tf.train.CheckpointManager:
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=keep, checkpoint_name="ckpt")


def _save(manager: tf.train.CheckpointManager, step: int) -> None:
    if manager.latest_checkpoint is None or _step(manager.latest_checkpoint) != step:
        # The counter is saved too, and must not tell how often a job was interrupted: the manager makes it the step.
        manager.checkpoint.save_counter.assign(step - 1)
        manager.save(checkpoint_number=step)


def _step(path: str) -> int:
    return int(path.rpartition("-")[2])
