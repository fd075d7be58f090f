"""A worker that trains in the test's own process, with a network of one layer, films made up here and a quick validation."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.dataset import training_order
from trainer.dataset.manifest import Dataset
from trainer.dataset.training_order import TrainingOrder
from trainer.evaluation import evaluate
from trainer.input import pipeline
from trainer.model import networks
from trainer.process.signals import StopRequest
from trainer.training import loop

STEPS_PER_EPOCH, BATCH, SIDE = 3, 8, 16
ALONE = Cluster((), 0, "a test")
CHIEF, SECOND = (Cluster(("a:1", "b:1"), index, "a test") for index in (0, 1))


class Killed(BaseException):
    """The process is gone."""


class Signals(StopRequest):
    """A listener to which a test sends signals, so that this process keeps its own handlers."""

    def listen(self) -> None:
        """Installs no handlers."""

    def arrive(self) -> None:
        """Receives SIGTERM."""
        self._receive(signal.SIGTERM, None)


def one_layer(job: TrainConfig, *, genres: int, height: int, width: int) -> networks.Network:
    """Returns a network that learns in a step of milliseconds."""
    keras.utils.set_random_seed(job.seed)
    image = keras.Input((height, width, 3), dtype=tf.uint8, name="image")
    position = keras.Input((), dtype=tf.int64, name="position")
    features = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    logits = keras.layers.Dense(genres, name="genres")(features)
    return networks.Network({"image": image, "position": position}, logits, name=job.model)


def made_up(
    dataset: Dataset, order: TrainingOrder, *, replica_batch: int, first_step: int, epochs: int, **options: Any
) -> tf.data.Dataset:
    """Returns the films of `pipeline.training_dataset`, without shards."""
    draw = np.random.default_rng(0)
    count = epochs * order.steps_per_epoch * BATCH
    images = draw.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    labels = draw.integers(0, 2, (count, 3)).astype(np.float32)
    films = tf.data.Dataset.from_tensor_slices(({"image": images, "position": np.arange(count)}, labels))
    return films.batch(replica_batch, drop_remainder=True).skip(first_step * BATCH // replica_batch)


def step_by_step(
    network: networks.Network,
    inputs: Any,
    *,
    epochs: int,
    steps_per_epoch: int,
    callbacks: list[keras.callbacks.Callback],
    verbose: int,
) -> None:
    """Calls the callbacks as `fit` does, and trains nothing."""
    calls = keras.callbacks.CallbackList(callbacks, model=network)
    calls.on_train_begin()
    epoch, step = network._training_state.maybe_load_initial_counters_from_ckpt(steps_per_epoch, 0, "train")
    network.stop_training = False
    while epoch < epochs and not network.stop_training:
        calls.on_epoch_begin(epoch)
        while step < steps_per_epoch:
            calls.on_train_batch_begin(step)
            calls.on_train_batch_end(step, {"loss": tf.constant(0.5), **network.more_metrics()})
            step += 1
            if network.stop_training:
                break
        calls.on_epoch_end(epoch, {"loss": 0.5})
        epoch, step = epoch + 1, 0
    calls.on_train_end()


def look_at_one_weight(network: networks.Network, loss: keras.losses.Loss) -> dict[str, float]:
    """Takes the place of `evaluate.epoch_metrics`; the network takes that of the `SplitPredictor`."""
    value = float(network.get_layer("genres").kernel[0, 0])
    return {"loss": -value, "mean_average_precision": value}


def replace_parts(patch: pytest.MonkeyPatch) -> None:
    """Replaces the network, the input pipeline and the validation by quick ones."""
    patch.setattr(networks, "build", one_layer)
    patch.setattr(pipeline, "training_dataset", made_up)
    patch.setattr(loop, "SplitPredictor", lambda strategy, network, *arguments, **options: network)
    patch.setattr(evaluate, "epoch_metrics", look_at_one_weight)


@dataclasses.dataclass
class Worker:
    """A worker in a job directory, which may be killed and started again."""

    dataset: Dataset
    folder: Path
    stop: Signals = dataclasses.field(default_factory=Signals)

    def job(self, **options: Any) -> TrainConfig:
        """Returns the flags."""
        defaults: dict[str, Any] = {
            "model": "cnn",
            "augment": "none",
            "batch_size": BATCH,
            "epochs": 2,
            "backup_steps": 100,
            "run_eagerly": True,
        }
        return TrainConfig(data_dir="d", job_dir="j", **defaults | options)

    def train(
        self,
        *,
        cluster: Cluster = ALONE,
        check: Callable[[], Any] = lambda: None,
        pretrained: list[np.ndarray] | None = None,
        **options: Any,
    ) -> None:
        """Trains as `loop.train` does, perhaps from pretrained weights; `options` are flags."""
        job = self.job(**options)
        loop.train(
            job,
            self.dataset,
            training_order.plan(job, self.dataset, workers=cluster.workers),
            epath.Path(self.folder),
            tf.distribute.OneDeviceStrategy("/cpu:0"),
            cluster=cluster,
            stop=self.stop,
            check=check,
            weights=pretrained,
        )

    def ask(self) -> None:
        """Asks the worker to stop, once."""
        if not self.stop.requested:
            self.stop.arrive()

    @property
    def rows(self) -> list[str]:
        """The lines of history.csv."""
        return (self.folder / "history.csv").read_text().splitlines()

    @property
    def epochs(self) -> list[tuple[int, ...]]:
        """The epochs in the history, each with its last step."""
        return [tuple(map(int, row.split(",")[:2])) for row in self.rows[1:]]
