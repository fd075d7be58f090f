"""What a killed job resumes from: weights, optimizer, running metrics, position and history, in TensorFlow checkpoints.

Three places hold them, all written by `tf.train.CheckpointManager`, under a fresh name each time; a checkpoint becomes
real when the pointer file beside it is replaced.

  backup/            the whole state, every so many steps and at the end of an epoch's steps; the newest two
  checkpoints/last   the whole state after the last finished epoch, its validation and history row included
  checkpoints/best   the weights alone, of the epoch with the best validation mean average precision
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.errors import Ended, LostService, UserError
from trainer.job import history
from trainer.process import heartbeat
from trainer.storage import failures, files

_log = logging.getLogger(__name__)

_BACKUP, _LAST, _BEST = "backup", "checkpoints/last", "checkpoints/best"

# The line of TensorFlow's file that names the newest checkpoint beside it.
_POINTER = re.compile(rb'^model_checkpoint_path: "([^"/]+)"', re.MULTILINE)

# These say nothing about the file: another try may read it.
_NOT_DAMAGE = (tf.errors.PermissionDeniedError, tf.errors.UnavailableError, tf.errors.ResourceExhaustedError)


class Progress(tf.train.experimental.PythonState):
    """How far training has come.

    Attributes:
      step: global steps taken.
      history: a row for each finished epoch.
      metrics: the values of the running metrics at the last backup, [replicas, values].
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.history: list[history.Row] = []
        self.metrics: list[list[float]] = []

    def serialize(self) -> str:
        """As JSON, whose floats come back exactly."""
        return json.dumps({"step": self.step, "history": self.history, "metrics": self.metrics})

    def deserialize(self, string_value: str) -> None:
        """The inverse of `serialize`."""
        values = json.loads(string_value)
        self.step, self.history, self.metrics = values["step"], values["history"], values["metrics"]


class TrainingState:
    """Saves and restores the state of a compiled model and its `Progress`.

    Attributes:
      progress: how far training has come; whoever trains keeps it up to date.
      writes: whether this worker writes, which the chief alone does.
      check: raises before a write if the directory is no longer this process's.
    """

    def __init__(self, model: keras.Model, job_dir: epath.Path, *, writes: bool, check: Callable[[], None]) -> None:
        """Args:
        model: compiled, with its metrics and its optimizer's variables built.
        job_dir: where the checkpoints are.
        writes: whether this worker writes; all of a job's workers call the same methods at the same steps.
        check: raises before a write if the directory is no longer this process's.
        """
        self.progress = Progress()
        self.writes = writes
        self.check = check
        self._metrics = _RunningMetrics(model)
        # Not the model as a whole: its metrics are kept once a replica, and saving their sum would need all workers.
        state = tf.train.Checkpoint(layers=model.layers, optimizer=model.optimizer, progress=self.progress)
        self._backups = _manager(state, job_dir / _BACKUP, keep=2)
        self._last = _manager(state, job_dir / _LAST, keep=1)
        self._best = _manager(_weights(model), job_dir / _BEST, keep=1)
        for manager in (self._backups, self._best):
            # Made at the first save otherwise, by the chief alone, and under its strategy, which would wait for the others.
            _ = manager.checkpoint.save_counter

    def back_up(self) -> None:
        """Saves the state in the middle of an epoch, or between its steps and its end."""
        self.progress.metrics = self._metrics.read()
        self._save(self._backups)

    def save_epoch(self) -> None:
        """Saves the state after an epoch's end, and the weights if the epoch was the best."""
        # The best weights first: a job killed between the two goes through the epoch's end again.
        if history.best(self.progress.history) is self.progress.history[-1]:
            self._save(self._best)
        self._save(self._last)

    def restore(self) -> bool:
        """Loads the newest state that can be read; a damaged one is named in the log and the one before it taken.

        Returns:
          Whether there was one.

        Raises:
          UserError: there are some, and none can be read.
        """
        damaged = []
        for manager, path in self._newest_first():
            try:
                manager.checkpoint.restore(path).assert_existing_objects_matched()
            except Exception as error:  # A damaged file makes TensorFlow raise nearly anything, IndexError included.
                if _is_no_damage(error):
                    raise
                _log.warning("%s cannot be read and is left out: %s", path, _brief(error))
                damaged.append(path)
            else:
                return True
        if damaged:
            raise UserError(f"no checkpoint can be read of {', '.join(damaged)}: restore one, or start anew with --fresh")
        return False

    def restore_metrics(self) -> None:
        """Gives the running metrics the values that they had at the last backup."""
        self._metrics.write(self.progress.metrics)

    def _save(self, manager: tf.train.CheckpointManager) -> None:
        step = self.progress.step
        if self.writes and (manager.latest_checkpoint is None or _step(manager.latest_checkpoint) != step):
            self.check()
            # The counter is saved too, and must not tell how often a job was interrupted: the manager makes it the step.
            manager.checkpoint.save_counter.assign(step - 1)
            options = tf.train.CheckpointOptions(experimental_write_callbacks=[_check_arrived])
            try:
                manager.save(checkpoint_number=step, options=options)
            except tf.errors.NotFoundError as error:  # TensorFlow renames what it has just written.
                raise _not_arrived(f"{manager.directory}/ckpt-{step}", error) from error
            heartbeat.beat()

    def _newest_first(self) -> Iterator[tuple[tf.train.CheckpointManager, str]]:
        # Of two at the same step the one in checkpoints/last is the newer: it has the epoch's end behind it.
        managers = (self._backups, self._last)
        found = [(_step(path), order, path) for order, manager in enumerate(managers) for path in manager.checkpoints]
        for _, order, path in sorted(found, reverse=True):
            yield managers[order], path


class _RunningMetrics:
    """The values of a model's metrics, replica by replica.

    A checkpoint of them would hold their sum, and a sum of floats depends on its order.
    """

    def __init__(self, model: keras.Model) -> None:
        variables = [variable for metric in model.metrics for variable in metric.variables]
        strategy = self._strategy = model.distribute_strategy

        def own() -> tf.Tensor:
            return tf.concat([tf.reshape(variable, [1, -1]) for variable in variables], axis=1)

        @tf.function
        def read() -> tf.Tensor:
            return strategy.gather(strategy.run(own), axis=0)

        def replace_own(rows: tf.Tensor) -> None:
            row = rows[tf.distribute.get_replica_context().replica_id_in_sync_group]
            sizes = [variable.shape.num_elements() for variable in variables]
            for variable, values in zip(variables, tf.split(row, sizes), strict=True):
                variable.assign(tf.reshape(values, variable.shape))

        @tf.function
        def write(rows: tf.Tensor) -> None:
            strategy.run(replace_own, args=(rows,))

        self._read, self._write = read, write

    def read(self) -> list[list[float]]:
        """Returns the values of each replica, [replicas, values]."""
        return self._read().numpy().tolist()

    def write(self, rows: list[list[float]]) -> None:
        """Puts the values back; another number of replicas gets their sum."""
        replicas = self._strategy.num_replicas_in_sync
        if len(rows) != replicas:
            total = np.sum(rows, axis=0)
            rows = [total, *[np.zeros_like(total)] * (replicas - 1)]
        self._write(tf.constant(rows, tf.float32))


def is_begun(job_dir: epath.Path) -> bool:
    """Whether there is a state to resume from; needs no model."""
    return any(_latest(job_dir / folder) for folder in (_BACKUP, _LAST))


def read_progress(job_dir: epath.Path) -> Progress:
    """Reads how far a job had come at the end of its last finished epoch; needs no model.

    Step 0 before the first, or where the checkpoint cannot be read: `TrainingState.restore` says what is left. It runs no op of
    TensorFlow, which cannot join a cluster after its first.
    """
    path = _latest(job_dir / _LAST)
    if path is None:
        return Progress()
    progress = Progress()
    try:
        progress.deserialize(tf.train.load_checkpoint(path).get_tensor("progress/.ATTRIBUTES/py_state"))
    except Exception as error:
        if _is_no_damage(error):
            raise
        _log.warning("%s cannot be read: %s", path, _brief(error))
        return Progress()
    return progress


def restore_best(model: keras.Model, job_dir: epath.Path) -> None:
    """Loads the weights of a job's best epoch.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    path = _latest(job_dir / _BEST)
    if path is None:
        raise UserError(f"{job_dir / _BEST} holds no checkpoint: restore it, or train again with --fresh")
    try:
        _weights(model).restore(path).assert_existing_objects_matched().expect_partial()
    except Exception as error:
        if _is_no_damage(error):
            raise
        reason = _brief(error)
        raise UserError(f"{path} cannot be read ({reason}): restore it, or train again with --fresh") from error


def delete_backups(job_dir: epath.Path) -> None:
    """Deletes backup/, once nothing is left to resume; a longer job goes on from checkpoints/last."""
    files.remove_folder(job_dir / _BACKUP)


def _check_arrived(path: str) -> None:
    """Looks for a checkpoint that was just written, before anything points to it and an older one is deleted.

    Raises:
      LostService: it is not there, or not whole.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
        # Strings, such as the progress, take more than nothing.
        least = sum(math.prod(shapes[name]) * kind.size for name, kind in types.items() if kind != tf.string)
        found = sum(tf.io.gfile.stat(file).length for file in tf.io.gfile.glob(f"{path}.data-*"))
    except (tf.errors.NotFoundError, tf.errors.DataLossError, ValueError) as error:
        raise _not_arrived(path, error) from error
    if found < least:
        raise _not_arrived(path, f"{found} of {least} bytes")


def _not_arrived(path: str, reason: object) -> LostService:
    return LostService(f"{path} was written and is not there as a whole: look at the storage ({_brief(reason)})")


def _brief(reason: object) -> str:
    return " ".join(str(reason).split())[:200]


def _is_no_damage(error: Exception) -> bool:
    return isinstance(error, _NOT_DAMAGE) or isinstance(failures.of_tensorflow(error), Ended)


def _weights(model: keras.Model) -> tf.train.Checkpoint:
    # By its layers: a checkpoint of the model itself would hold the optimizer too, and be three times as large.
    return tf.train.Checkpoint(layers=model.layers)


def _manager(checkpoint: tf.train.Checkpoint, folder: epath.Path, *, keep: int) -> tf.train.CheckpointManager:
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=keep, checkpoint_name="ckpt")
    _check_found(manager.latest_checkpoint, folder)
    return manager


def _latest(folder: epath.Path) -> str | None:
    path = tf.train.latest_checkpoint(str(folder))
    _check_found(path, folder)
    return path


def _check_found(path: str | None, folder: epath.Path) -> None:
    """Where Cloud Storage does not answer, or refuses, TensorFlow says that there is no checkpoint: a job would begin anew.

    Raises:
      LostService: there is one.
    """
    if path is not None:
        return
    try:
        newest = _POINTER.search(files.read(folder / "checkpoint"))
    except FileNotFoundError:
        return
    if newest and files.exists(folder / f"{newest[1].decode()}.index"):
        raise LostService(f"{folder / 'checkpoint'} could not be read by TensorFlow: run the same command again")


def _step(path: str) -> int:
    return int(path.rpartition("-")[2])
