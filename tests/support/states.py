"""Jobs with a tiny model, which save their state as training does."""

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.job.history import MONITOR
from trainer.training.checkpoints import TrainingState

BACKUP, LAST, BEST = "backup", "checkpoints/last", "checkpoints/best"


class Layer(tf.Module):
    """A layer of one variable, which is 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.zeros([size]))


def model_of(*sizes: int) -> Any:
    """Returns what a state needs of a compiled model, with a layer for each size; a real one takes much longer to build."""
    layers = [Layer(size) for size in sizes or (4,)]
    metrics = [keras.metrics.Mean(name="loss"), keras.metrics.Precision(name="precision")]
    strategy = tf.distribute.get_strategy()
    return types.SimpleNamespace(layers=layers, optimizer=Layer(3), metrics=metrics, distribute_strategy=strategy)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that trains by setting all its weights to the step."""

    model: Any
    state: TrainingState

    def take_steps(self, step: int) -> None:
        """Trains up to a step."""
        self.state.progress.step = step
        for part in (*self.model.layers, self.model.optimizer):
            part.kernel.assign(tf.fill(part.kernel.shape, float(step)))

    def back_up(self, step: int) -> None:
        """Trains up to a step and saves the state."""
        self.take_steps(step)
        self.state.back_up()

    def end_epoch(self, step: int, rating: float) -> None:
        """Trains up to an epoch's end, which gets this rating, and saves the state."""
        self.take_steps(step)
        progress = self.state.progress
        progress.history = [*progress.history, {"epoch": len(progress.history) + 1, "step": step, MONITOR: rating}]
        self.state.save_epoch()


def job_in(folder: Path, *sizes: int, writes: bool = True, check: Callable[[], None] = lambda: None) -> Job:
    """Returns a job in a directory, which has not restored a state yet."""
    model = model_of(*sizes)
    return Job(model, TrainingState(model, epath.Path(folder), writes=writes, check=check))


def saved(folder: Path, kind: str) -> list[int]:
    """Returns the steps of the checkpoints in a folder of a job directory."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in (folder / kind).glob("ckpt-*.index"))


def data_of(path: Path) -> Path:
    """Returns the file with a checkpoint's tensors."""
    return Path(f"{path}.data-00000-of-00001")
