"""Overhead of making a job resumable, observable and comparable: trainer.task, and the same training without a job directory.

    python -m benchmarks.overhead --posters=8000

Both train the same network on the same input and validate after each epoch. trainer.task also writes backups, history.csv,
checkpoints and TensorBoard's files; the other only gives `fit` the learning rate schedule and the validation. The timed span is two
epochs with their ends: with 8,000 films that is 200 steps, after the last of which the default interval makes a backup due too.
"""

import functools
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks.lib import comparison, films, steps
from benchmarks.lib.comparison import OURS, Goal
from trainer.config import TrainConfig

_BARE = flags.DEFINE_string("bare", None, "Internal: train on this data set with nothing beside it.")

_WARM_UP, _EPOCHS_TIMED = 3, 2


def config(data_dir: str, job_dir: str = "-") -> TrainConfig:
    """Returns the config of the job, which runs for two epochs and the start of a third."""
    return TrainConfig(data_dir=data_dir, job_dir=job_dir, model="cnn", epochs=_EPOCHS_TIMED + 1)


def bare(data_dir: str) -> None:
    """Trains as trainer.task does, without a job directory."""
    import tensorflow as tf
    import tf_keras as keras

    from trainer.dataset import manifest, training_order
    from trainer.evaluation import evaluate
    from trainer.evaluation.predict_split import SplitPredictor
    from trainer.input import pipeline
    from trainer.model import networks, objective
    from trainer.process import heartbeat
    from trainer.training import callbacks, loop

    job, dataset = config(data_dir), manifest.load(data_dir)
    order = training_order.plan(job, dataset, workers=1)
    network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    loss = objective.GenreLoss()
    loop.compile_network(network, job, loss)
    rate = objective.learning_rate(job, steps_per_epoch=order.steps_per_epoch)
    predictor = SplitPredictor(tf.distribute.get_strategy(), network, dataset, "validation", batch_size=job.batch_size)

    class Steps(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._supports_tf_logs = True
            self._step = 0

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            network.optimizer.learning_rate = rate(self._step)

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self._step += 1
            heartbeat.beat(heartbeat.STEP)

    network.fit(
        pipeline.training_dataset(dataset, order, replica_batch=job.batch_size, first_step=0, epochs=job.epochs),
        epochs=job.epochs,
        steps_per_epoch=order.steps_per_epoch,
        callbacks=[Steps(), callbacks.Validation(lambda: evaluate.epoch_metrics(predictor, loss))],
        verbose=0,
    )


def rate(command: tuple[str, ...], steps_per_epoch: int, batch_size: int) -> float:
    """Trains, and returns the images per second from the third step to the first one of the last epoch."""
    with steps.job(command) as job:
        moments = job.steps(_EPOCHS_TIMED * steps_per_epoch + 1)
        return steps.images_per_second(moments, batch_size=batch_size, first=_WARM_UP)


def main(_: list[str]) -> None:
    """Prints the comparison, or trains without a job directory."""
    if _BARE.value:
        bare(_BARE.value)
        return
    from trainer.dataset import manifest, training_order

    other = "nothing beside the training"
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        # A small batch, so that a step takes a quarter of a second: the shorter the step, the larger the share of the overhead.
        films.prepare(given, data_dir, "--height=96", "--width=64")
        job = config(str(data_dir))
        epoch = training_order.plan(job, manifest.load(data_dir), workers=1).steps_per_epoch

        def ours() -> float:
            with tempfile.TemporaryDirectory() as folder:
                command = steps.train(data_dir, f"{folder}/job", f"--model={job.model}", f"--epochs={job.epochs}")
                return rate(command, epoch, job.batch_size)

        theirs = (sys.executable, "-m", "benchmarks.overhead", f"--bare={data_dir}")
        found = comparison.in_turn({OURS: ours, other: functools.partial(rate, theirs, epoch, job.batch_size)})
    title = f"{_EPOCHS_TIMED} epochs of {epoch} steps, {job.model}, with all that a job writes"
    comparison.report(title, "images a second, validation included", found, [Goal((other,), least=0.98)])


if __name__ == "__main__":
    app.run(main)
