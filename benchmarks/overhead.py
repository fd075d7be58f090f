"""What it costs that a job can be killed, watched and compared: trainer.task as it is, and a training with nothing beside it.

    python -m benchmarks.overhead [--csv=films.csv --images=posters/]

Both train the same network on the same input, and validate at each epoch's end. The one writes backups, history.csv, checkpoints
and TensorBoard's files; the other hands `fit` the learning rate and the validation, and nothing else.
"""

import functools
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks import comparison, films, steps
from benchmarks.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "cnn", ("cnn", "resnet"), "The network.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds that count.")
_BARE = flags.DEFINE_string("bare", None, "Internal: train on this data set with nothing beside it.")

_BATCH, _WARM_UP, _EPOCHS = 64, 3, 3


def bare(data_dir: str) -> None:
    """Trains as trainer.task does, without a job directory."""
    import tensorflow as tf
    import tf_keras as keras

    from trainer import augment, callbacks, config, heartbeat, model, objective, training
    from trainer.data import pipeline, shards
    from trainer.evaluation import evaluator
    from trainer.evaluation.inference import SplitPredictor

    job = config.TrainConfig(data_dir=data_dir, job_dir="-", model=_MODEL.value, batch_size=_BATCH, epochs=_EPOCHS)
    dataset = shards.load(data_dir)
    order = training.plan(job, dataset, workers=1)
    network = model.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    loss = objective.GenreLoss()
    training.compile_network(network, job, loss)
    rate = objective.learning_rate(job, steps_per_epoch=order.steps_per_epoch)
    strategy = tf.distribute.get_strategy()
    predictor = SplitPredictor(strategy, network, dataset, "validation", batch_size=_BATCH)

    class Steps(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._supports_tf_logs = True

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            network.optimizer.learning_rate = rate(int(network.optimizer.iterations.numpy()))

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            heartbeat.beat(heartbeat.STEP)

    network.fit(
        pipeline.training_dataset(
            dataset, order, replica_batch=_BATCH, first_step=0, epochs=_EPOCHS, mixed=augment.STRENGTHS[job.augment].mixed
        ),
        epochs=_EPOCHS,
        steps_per_epoch=order.steps_per_epoch,
        callbacks=[Steps(), callbacks.Validation(lambda: evaluator.epoch_figures(predictor, loss))],
        verbose=0,
    )


def rate(count: int, *command: str) -> float:
    """Trains, and returns images a second from the third step to the last one, validations included."""
    with steps.job((sys.executable, "-m", *command)) as job:
        return steps.images_per_second(job.steps(count), batch_size=_BATCH, first=_WARM_UP)


def main(_: list[str]) -> None:
    """Prints the comparison, or trains with nothing beside it."""
    if _BARE.value:
        bare(_BARE.value)
        return
    other = "nothing beside the training"
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        from trainer.data import pipeline, shards

        order = pipeline.training_order(shards.load(data_dir), batch_size=_BATCH, open_shards=16, shuffle_window=512, seed=0)
        count = _EPOCHS * order.steps_per_epoch

        def ours() -> float:
            with tempfile.TemporaryDirectory() as folder:
                options = (f"--model={_MODEL.value}", f"--batch_size={_BATCH}", f"--epochs={_EPOCHS}")
                return rate(count, "trainer.task", f"--data_dir={data_dir}", f"--job_dir={folder}/job", *options)

        theirs = functools.partial(rate, count, "benchmarks.overhead", f"--bare={data_dir}", f"--model={_MODEL.value}")
        found = comparison.in_turn({OURS: ours, other: theirs}, repeats=_REPEATS.value)
    title = f"{_EPOCHS} epochs of {order.steps_per_epoch} steps, {_MODEL.value}, with all that a job writes"
    comparison.report(title, "images a second, validation included", found, [Goal((other,), least=0.98)])


if __name__ == "__main__":
    app.run(main)
