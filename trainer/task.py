"""Trains a network on a data set, then evaluates and exports it: `python -m trainer.task --data_dir=DIR --job_dir=DIR`.

A job that was killed is started again with the same command: it goes on at its last backup, and ends as if nothing had happened.
"""

import logging

import tensorflow as tf
from absl import flags

from trainer import app, config, diagnosis, history, job_dir, lock, model, reporting, serving, state, stopping, training
from trainer import strategy as strategies
from trainer.config import TrainConfig
from trainer.data import shards
from trainer.errors import UserError
from trainer.evaluation import evaluator, metrics
from trainer.evaluation.inference import SplitPredictor
from trainer.job_dir import JobDir
from trainer.run_record import RunRecord

_log = logging.getLogger("trainer.task")


def main(arguments: list[str]) -> None:
    """Runs a job to its end, from wherever it is."""
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag of trainer.task: options are written --name=value")
    reporting.configure(job.log_format)
    stop = stopping.StopRequest()
    dataset = shards.load(job.data_dir)
    directory = job_dir.describe(job, dataset)
    with lock.held(directory.lock_path, directory.job_id) as owned:
        if job.fresh and not directory.was_begun_by_this_launch():
            directory.move_aside()
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished: its report is %s", directory.path, directory.evaluation / "report.html")
            return
        directory.check_not_failed()
        try:
            with diagnosis.explained(dataset, batch_size=job.batch_size):
                _run(job, dataset, directory, owned, stop)
        except UserError as error:
            owned.check()
            directory.fail(str(error))
            raise


def _run(job: TrainConfig, dataset: shards.Dataset, directory: JobDir, owned: lock.Lock, stop: stopping.StopRequest) -> None:
    """Trains, evaluates and exports."""
    _set_up(job)
    strategy = strategies.create(job.strategy)
    # What can be refused is refused before anything of an earlier, shorter job is taken away.
    order = training.plan(job, dataset, replicas=strategy.num_replicas_in_sync)
    directory.begin()
    run = RunRecord(directory.path / "run.json", data_dir=job.data_dir, check=owned.check)
    run.note(strategy=type(strategy).__name__, replicas=strategy.num_replicas_in_sync)
    training.train(job, dataset, order, directory.path, strategy, stop=stop, check=owned.check)
    run.mark("trained")
    directory.clear_results()
    figures = _evaluate(job, dataset, directory, strategy, owned)
    run.mark("finished")
    directory.finish({"step": state.read_progress(directory.path).step})
    state.delete_backups(directory.path)
    print(metrics.table(figures))
    _log.info("the report is %s, the model %s", directory.evaluation / "report.html", directory.path / "model")


def _evaluate(
    job: TrainConfig, dataset: shards.Dataset, directory: JobDir, strategy: tf.distribute.Strategy, owned: lock.Lock
) -> dict:
    """Evaluates the best weights, on thresholds chosen on the validation split, and exports them."""
    epochs = state.read_progress(directory.path).history
    _log.info("evaluating the weights of epoch %d", history.best(epochs)["epoch"])
    with strategy.scope():
        network = model.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    state.restore_best(network, directory.path)
    validation, test = (
        SplitPredictor(strategy, network, dataset, split, batch_size=job.batch_size) for split in ("validation", "test")
    )
    thresholds = metrics.tune_thresholds(validation.predictions(validation.logits()))
    owned.check()
    figures = evaluator.evaluate(
        test,
        dataset,
        directory.evaluation,
        split="test",
        thresholds=thresholds,
        train=directory.description["data"]["train"],
        config=directory.description,
        history=epochs,
    )
    owned.check()
    serving.export(
        lambda images: model.logits(network, images),
        directory.path / "model",
        genres=dataset.genres,
        height=dataset.height,
        width=dataset.width,
    )
    return figures


def _set_up(job: TrainConfig) -> None:
    if job.deterministic:
        tf.config.experimental.enable_op_determinism()
    if job.debug_nans:
        tf.debugging.enable_check_numerics()
    # Keras's loop is told when it is compiled; the loops of this package are told here.
    tf.config.run_functions_eagerly(job.run_eagerly)


if __name__ == "__main__":
    config.define_flags()
    flags.adopt_module_key_flags(config)  # So that --help lists them.
    app.run(main)
