"""What a killed job resumes from: weights, optimizer, running metrics, position and history, in TensorFlow checkpoints.

`tf.train.CheckpointManager` writes all of them, each under a fresh name; a checkpoint becomes real when the pointer file beside
it is replaced.

  backup/            the whole state, every --backup_steps steps and at the end of an epoch's steps; the newest two are kept
  checkpoints/last   the whole state after the last finished epoch, including its validation and its row in the history
  checkpoints/best   the weights alone, of the epoch with the best validation mean average precision

A job resumes from the newest state that can be read: the one with the highest step, and of two with the same step the one in
checkpoints/last, which has the epoch's end behind it.
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

from trainer.errors import Ended, LostService, UserError, brief
from trainer.job import history
from trainer.process import heartbeat
from trainer.storage import failures, files

_log = logging.getLogger(__name__)

_BACKUP, _LAST, _BEST = "backup", "checkpoints/last", "checkpoints/best"

# The line of TensorFlow's file that names the newest checkpoint beside it.
_POINTER = re.compile(rb'^model_checkpoint_path: "([^"/]+)"', re.MULTILINE)

# These errors say nothing about the file: another try may read it.
_NOT_DAMAGE = (tf.errors.PermissionDeniedError, tf.errors.UnavailableError, tf.errors.ResourceExhaustedError)


class Progress(tf.train.experimental.PythonState):
    """How far training has come.

    Attributes:
      step: the number of global steps taken.
      history: the history's rows, one for each finished epoch.
      metrics: the values of the running metrics at the last backup, float [replicas, values].
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.history: list[history.Row] = []
        self.metrics: list[list[float]] = []

    def serialize(self) -> str:
        """Returns the progress as JSON, which keeps floats exactly."""
        return json.dumps({"step": self.step, "history": self.history, "metrics": self.metrics})

    def deserialize(self, string_value: str) -> None:
        """Takes over what `serialize` returned."""
        values = json.loads(string_value)
        self.step, self.history, self.metrics = values["step"], values["history"], values["metrics"]


class TrainingState:
    """Saves and restores the state of a compiled model and its `Progress`.

    Attributes:
      progress: how far training has come; the callbacks keep it up to date.
      writes: whether this worker writes; only the chief does.
      check: raises before a write if the directory no longer belongs to this process.
    """

    def __init__(self, model: keras.Model, job_dir: epath.Path, *, writes: bool, check: Callable[[], None]) -> None:
        """Args:
        model: the compiled network, with its metrics and the optimizer's variables built.
        job_dir: the job directory.
        writes: whether this worker writes; all workers call the same methods at the same steps, because reading the state of
          several replicas needs all of them.
        check: raises before a write if the directory no longer belongs to this process.
        """
        self.progress = Progress()
        self._job_dir = job_dir
        self.writes = writes
        self.check = check
        self._metrics = _RunningMetrics(model)
        # Not the model as a whole: each replica has its own metrics, and saving their sum would need all workers.
        state = tf.train.Checkpoint(layers=model.layers, optimizer=model.optimizer, progress=self.progress)
        self._backups = _manager(state, job_dir / _BACKUP, keep=2)
        self._last = _manager(state, job_dir / _LAST, keep=1)
        self._best = _manager(_weights(model), job_dir / _BEST, keep=1)
        for manager in (self._backups, self._best):
            # Otherwise the chief alone would create the counter at its first save, and its strategy would wait for the other
            # workers.
            _ = manager.checkpoint.save_counter

    def back_up(self) -> None:
        """Saves the state in the middle of an epoch, or after its last step and before its end."""
        self.progress.metrics = self._metrics.read()
        self._save(self._backups)

    def save_epoch(self) -> None:
        """Saves the state after an epoch's end, and the weights if the epoch was the best so far."""
        # The best weights come first: a job that is killed between the two saves repeats the epoch's end.
        if history.best(self.progress.history) is self.progress.history[-1]:
            self._save(self._best)
        self._save(self._last)

    def restore(self) -> str | None:
        """Loads the newest state that can be read; the log names one that is damaged, and the state before it is loaded.

        Returns:
          The state's path within the job directory, such as backup/ckpt-140, or None where there is no state.

        Raises:
          UserError: there are states, and none of them can be read.
        """
        damaged = []
        for manager, path in self._newest_first():
            try:
                manager.checkpoint.restore(path).assert_existing_objects_matched()
            except Exception as error:  # A damaged file makes TensorFlow raise nearly anything, IndexError included.
                if _is_no_damage(error):
                    raise
                _log.warning("%s cannot be read (%s): the state before it is tried", path, brief(error))
                damaged.append(path)
            else:
                return path.removeprefix(f"{self._job_dir}/")
        if damaged:
            raise UserError(
                f"{', '.join(damaged)} cannot be read, and there is no other state: restore a copy, or start anew with --fresh"
            )
        return None

    def restore_metrics(self) -> None:
        """Sets the running metrics to their values at the last backup."""
        self._metrics.write(self.progress.metrics)

    def _save(self, manager: tf.train.CheckpointManager) -> None:
        step = self.progress.step
        if self.writes and (manager.latest_checkpoint is None or _step(manager.latest_checkpoint) != step):
            self.check()
            # The counter is saved as well, and must not depend on how often the job was interrupted: the manager adds 1, so that
            # it is the step, and puts it into the checkpoint's name.
            manager.checkpoint.save_counter.assign(step - 1)
            options = tf.train.CheckpointOptions(experimental_write_callbacks=[_check_arrived])
            try:
                manager.save(options=options)
            except tf.errors.NotFoundError as error:  # TensorFlow renames the file that it has just written.
                raise _not_arrived(f"{manager.directory}/ckpt-{step}", error) from error
            heartbeat.beat()

    def _newest_first(self) -> Iterator[tuple[tf.train.CheckpointManager, str]]:
        # See the top of this module for the order.
        managers = (self._backups, self._last)
        found = [(_step(path), order, path) for order, manager in enumerate(managers) for path in manager.checkpoints]
        for _, order, path in sorted(found, reverse=True):
            yield managers[order], path


class _RunningMetrics:
    """The values of a model's metrics, replica by replica.

    A checkpoint of the metrics would hold their sum over the replicas, and a sum of floats depends on the order of its terms.
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
        """Returns the values of each replica, float [replicas, values]."""
        return self._read().numpy().tolist()

    def write(self, rows: list[list[float]]) -> None:
        """Sets the values, [replicas, values]; with another number of replicas than before, the first one gets the sums."""
        replicas = self._strategy.num_replicas_in_sync
        if len(rows) != replicas:
            total = np.sum(rows, axis=0)
            rows = [total, *[np.zeros_like(total)] * (replicas - 1)]
        self._write(tf.constant(rows, tf.float32))


def is_begun(job_dir: epath.Path) -> bool:
    """Returns whether there is a state to resume from; needs no model."""
    return any(_latest(job_dir / folder) for folder in (_BACKUP, _LAST))


def read_progress(job_dir: epath.Path) -> Progress:
    """Reads how far a job had come at the end of its last finished epoch; needs no model.

    The step is 0 before the first epoch's end, and where the checkpoint cannot be read (`TrainingState.restore` then finds the
    newest state that can). It runs no TensorFlow operation, because TensorFlow cannot join a cluster after its first operation.
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
        _log.warning("%s cannot be read: %s", path, brief(error))
        return Progress()
    return progress


def restore_best(model: keras.Model, job_dir: epath.Path) -> None:
    """Loads the weights of a job's best epoch into a network.

    Raises:
      UserError: the checkpoint does not exist, or cannot be read.
    """
    path = _latest(job_dir / _BEST)
    if path is None:
        raise UserError(f"{job_dir / _BEST} has no checkpoint: restore a copy, or train again with --fresh")
    try:
        _weights(model).restore(path).assert_existing_objects_matched().expect_partial()
    except Exception as error:
        if _is_no_damage(error):
            raise
        reason = brief(error)
        raise UserError(f"{path} cannot be read ({reason}): restore a copy, or train again with --fresh") from error


def delete_backups(job_dir: epath.Path) -> None:
    """Deletes backup/ of a finished job; the same job with more epochs goes on from checkpoints/last."""
    files.remove_folder(job_dir / _BACKUP)


def _check_arrived(path: str) -> None:
    """Checks that a new checkpoint has arrived, before anything points to it and an older one is deleted.

    Raises:
      LostService: a part of the checkpoint is missing.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
        # The length of strings, such as the progress, is unknown: they count as 0 bytes.
        least = sum(math.prod(shapes[name]) * kind.size for name, kind in types.items() if kind != tf.string)
        found = sum(tf.io.gfile.stat(file).length for file in tf.io.gfile.glob(f"{path}.data-*"))
    except tf.errors.OpError as error:  # For a garbled index often this class itself.
        if _is_no_damage(error):
            raise
        raise _not_arrived(path, error) from error
    if found < least:
        raise _not_arrived(path, f"{found} of {least} bytes")


def _not_arrived(path: str, reason: object) -> LostService:
    return LostService(
        f"{path} was written and did not arrive whole ({brief(reason)}): check the storage, and run the same command again"
    )


def _is_no_damage(error: Exception) -> bool:
    return isinstance(error, _NOT_DAMAGE) or isinstance(failures.of_tensorflow(error), Ended)


def _weights(model: keras.Model) -> tf.train.Checkpoint:
    # The layers only: a checkpoint of the model itself would hold the optimizer as well, and be three times as large.
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
    """Checks an answer of TensorFlow, which reports no checkpoint where Cloud Storage does not answer or refuses.

    Without this check such a job would start at step 0. On a disk TensorFlow's answer is right, and a second look may find a
    checkpoint that the chief has saved since the first.

    Raises:
      LostService: the folder holds a checkpoint although `path` is None.
    """
    if path is not None or not files.in_cloud_storage(folder):
        return
    try:
        newest = _POINTER.search(files.read(folder / "checkpoint"))
    except FileNotFoundError:
        return
    if newest and files.exists(folder / f"{newest[1].decode()}.index"):
        raise LostService(f"{folder / 'checkpoint'} could not be read by TensorFlow: run the same command again")


def _step(path: str) -> int:
    return int(path.rpartition("-")[2])
