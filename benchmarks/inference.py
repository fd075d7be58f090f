"""The speed of evaluation and of trainer.predict, relative to the network's forward pass alone.

    python -m benchmarks.inference

The limit is the same forward pass with the same batch size, over random images that are already in memory.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import app

from benchmarks.lib import comparison, films, steps
from benchmarks.lib.comparison import OURS, Goal

if TYPE_CHECKING:  # Each measuring process imports only what it needs.
    from trainer.dataset.manifest import Dataset
    from trainer.model.networks import Network

_MODEL, _EVALUATION_BATCH = "resnet", 64
_LIMIT = "limit: the forward pass alone"


def evaluation(job_dir: str, data_dir: str) -> Callable[[], float]:
    """Returns what measures the prediction of a whole split, as trainer.task and trainer.evaluate do it."""
    import tensorflow as tf

    from trainer.dataset import manifest
    from trainer.evaluation.predict_split import SplitPredictor

    dataset = manifest.load(data_dir)
    network = _network(job_dir, dataset)
    predictor = SplitPredictor(tf.distribute.get_strategy(), network, dataset, "train", batch_size=_EVALUATION_BATCH)
    return comparison.rate(predictor.logits, len(predictor.labels))


def forward(job_dir: str, data_dir: str, batch: int, images: int) -> Callable[[], float]:
    """Returns what measures the network on one batch, again and again."""
    import tensorflow as tf

    from trainer.dataset import manifest
    from trainer.model import networks

    dataset = manifest.load(data_dir)
    network = _network(job_dir, dataset)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (batch, dataset.height, dataset.width, 3), np.uint8))

    @tf.function
    @tf.autograph.experimental.do_not_convert
    def logits(images: tf.Tensor) -> tf.Tensor:
        return networks.logits(network, images)

    def run() -> None:
        for _ in range(-(-images // batch)):
            logits(images).numpy()

    return comparison.rate(run, -(-images // batch) * batch)


def prediction(job_dir: str, images: str) -> Callable[[], float]:
    """Returns what measures trainer.predict over a folder, from image files to genres, with the model already loaded."""
    from etils import epath

    from trainer import predict

    directory = epath.Path(job_dir)
    scorer, thresholds = predict.load_scorer(directory), predict.load_thresholds(directory)
    paths = sorted(map(str, Path(images).iterdir()))

    def run() -> None:
        for result in predict.predict(paths, scorer, thresholds, cache_dir=Path(job_dir)):
            assert isinstance(result, predict.Prediction), result

    return comparison.rate(run, len(paths))


def _network(job_dir: str, dataset: "Dataset") -> "Network":
    from etils import epath

    from trainer import config
    from trainer.model import networks
    from trainer.storage import files
    from trainer.training import checkpoints

    directory = epath.Path(job_dir)
    job = config.from_description(files.read_json(directory / "config.json"))
    network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    checkpoints.restore_best(network, directory)
    return network


def main(_: list[str]) -> None:
    """Prints the comparisons."""
    from trainer import predict

    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir, job_dir = f"{name}/data", f"{name}/job"
        films.prepare(given, Path(data_dir))
        comparison.run(steps.train(data_dir, job_dir, f"--model={_MODEL}", "--max_steps=2"))
        for what, ours, batch in (
            ("Evaluating a split", (evaluation, (job_dir, data_dir)), _EVALUATION_BATCH),
            ("trainer.predict", (prediction, (job_dir, str(given.images))), predict.BATCH_SIZE),
        ):
            with comparison.apart(ours, (forward, (job_dir, data_dir, batch, len(given.files())))) as measures:
                found = comparison.in_turn(dict(zip((OURS, _LIMIT), measures, strict=True)))
            comparison.report(f"{what}, {_MODEL}", "images a second", found, [Goal((_LIMIT,), least=0.9)])


if __name__ == "__main__":
    app.run(main)
