"""Trains a network on a data set, then evaluates and exports it: `python -m trainer.task --data_dir=DIR --job_dir=DIR`.

A job that was killed is started again with the same command: it goes on at its last backup, and ends as if nothing had
happened.
"""

import logging
import sys

import tensorflow as tf
import tf_keras as keras

from trainer import app, callbacks, config, diagnosis, job_dir, lock, model, objective, reporting, serving, stopping
from trainer import strategy as strategies
from trainer.config import TrainConfig
from trainer.data import pipeline, shards
from trainer.errors import UserError
from trainer.evaluation import evaluator, metrics
from trainer.evaluation.inference import SplitPredictor
from trainer.job_dir import JobDir
from trainer.run_record import RunRecord
from trainer.state import TrainingState, restore_best

_log = logging.getLogger("trainer.task")


def main(arguments: list[str]) -> None:
    """Runs a job to its end, from wherever it is."""
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag of trainer.task: options are written --name=value")
    reporting.configure(job.log_format)
    dataset = shards.load(job.data_dir)
    directory = job_dir.describe(job, dataset)
    stop = stopping.StopRequest()
    with lock.held(directory.lock_path, directory.job_id) as owned:
        if job.fresh:
            directory.move_aside()
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished: its report is %s", directory.path, directory.evaluation / "report.html")
            return
        directory.reopen()
        try:
            with diagnosis.explained(dataset, batch_size=job.batch_size):
                _run(job, dataset, directory, owned, stop)
        except UserError as error:
            directory.fail(str(error))
            raise


def _run(job: TrainConfig, dataset: shards.Dataset, directory: JobDir, owned: lock.Lock, stop: stopping.StopRequest) -> None:
    _set_up(job)
    strategy = strategies.create(job.strategy)
    run = RunRecord(directory.path / "run.json", attempt=owned.attempt, data_dir=job.data_dir, strategy=strategy)
    network, state = train(job, dataset, directory, strategy, owned, stop)
    run.mark("trained")

    best = state.progress.best()
    _log.info("evaluating the weights of epoch %d", best["epoch"] if best else job.epochs)
    restore_best(network, directory.path)
    validation, test = (
        SplitPredictor(strategy, network, dataset, split, batch_size=job.batch_size) for split in ("validation", "test")
    )
    figures = evaluator.evaluate(
        test,
        dataset,
        directory.evaluation,
        split="test",
        thresholds=metrics.tune_thresholds(validation.predictions(validation.logits())),
        train=directory.description["data"]["train"],
        config=directory.description,
        history=state.progress.history,
    )
    serving.export(
        lambda images: model.logits(network, images),
        directory.path / "model",
        genres=dataset.genres,
        height=dataset.height,
        width=dataset.width,
    )
    run.mark("finished")
    owned.check()
    directory.finish({"step": state.progress.step, "best_epoch": best["epoch"] if best else None})
    state.delete_backups()
    print(metrics.table(figures))
    _log.info("the report is %s, the model %s", directory.evaluation / "report.html", directory.path / "model")


def train(
    job: TrainConfig,
    dataset: shards.Dataset,
    directory: JobDir,
    strategy: tf.distribute.Strategy,
    owned: lock.Lock,
    stop: stopping.StopRequest,
) -> tuple[keras.Model, TrainingState]:
    """Trains from the newest backup, or from the start, to the job's last step.

    Returns:
      The network as it is after the last step, and the state with the history.

    Raises:
      UserError: the batch does not divide among the replicas, or is larger than the data set; the loss is not finite.
      Stopped: someone asked for it; the state is saved.
    """
    replicas = strategy.num_replicas_in_sync
    if job.batch_size % replicas:
        raise UserError(f"--batch_size={job.batch_size} does not divide among {replicas} replicas: choose a multiple of {replicas}")
    order = pipeline.training_order(
        dataset,
        batch_size=job.batch_size,
        open_shards=job.open_shards,
        shuffle_window=job.shuffle_window,
        seed=job.seed,
    )
    steps_per_epoch = order.steps_per_epoch
    last_step = min(job.epochs * steps_per_epoch, job.max_steps or sys.maxsize)
    _log.info(
        "%d steps of %d films an epoch, which leaves out %d others each time",
        steps_per_epoch,
        job.batch_size,
        order.left_out,
    )

    with strategy.scope():
        network = model.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
        split = dataset.split("train")
        loss = objective.loss(job, split.genre_counts, split.examples)
        compile_network(network, job, loss)
        state = TrainingState(network, directory.path, check=owned.check)
    if state.restore():
        _log.info("resuming at step %d of %d", state.progress.step, last_step)
    progress = state.progress

    validation = SplitPredictor(strategy, network, dataset, "validation", batch_size=job.batch_size)
    on_terminal = sys.stderr.isatty() and job.log_format != "json"
    in_order: list[keras.callbacks.Callback] = [
        callbacks.LearningRate(objective.learning_rate(job, steps_per_epoch=steps_per_epoch), state),
        callbacks.BackupAndRestore(
            state,
            every=job.backup_steps,
            steps_per_epoch=steps_per_epoch,
            last_step=last_step,
            stop=lambda: stop.requested,
        ),
        callbacks.Validation(lambda: evaluator.epoch_figures(validation, loss)),
        callbacks.History(state, directory.path / "history.csv"),
        callbacks.ModelCheckpoint(state),
        callbacks.EarlyStopping(state, patience=job.early_stopping),
        keras.callbacks.TensorBoard(str(directory.path / "logs"), write_graph=False, profile_batch=job.profile_range or 0),
    ]
    if not on_terminal:
        in_order.append(callbacks.EpochLine(state, batch_size=job.batch_size, epochs=job.epochs))

    if callbacks.epoch_is_unfinished(progress, steps_per_epoch=steps_per_epoch, last_step=last_step):
        callbacks.finish_epoch(network, state, in_order, steps_per_epoch=steps_per_epoch)
    if progress.step < last_step and not callbacks.exhausted(progress, job.early_stopping):
        with stop.deferred():
            network.fit(
                _training_input(job, dataset, order, strategy, first_step=progress.step),
                epochs=job.epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=in_order,
                verbose=1 if on_terminal else 0,
            )
    return network, state


def compile_network(network: keras.Model, job: TrainConfig, loss: keras.losses.Loss) -> None:
    """Gives a network its loss, figures and optimizer, with all the variables that a checkpoint of them holds."""
    network.compile(
        optimizer=objective.optimizer(job),
        loss=loss,
        metrics=objective.training_metrics(),
        run_eagerly=job.run_eagerly,
        steps_per_execution=job.steps_per_execution,
    )
    network.optimizer.build(network.trainable_variables)
    # Keras builds these at the first step, which is too late to restore them.
    network.compiled_loss.build(network.output)
    network.compiled_metrics.build(network.output, network.output)


def _training_input(
    job: TrainConfig,
    dataset: shards.Dataset,
    order: pipeline.TrainingOrder,
    strategy: tf.distribute.Strategy,
    *,
    first_step: int,
) -> tf.distribute.DistributedDataset:
    replica_batch = job.batch_size // strategy.num_replicas_in_sync

    def worker_input(context: tf.distribute.InputContext) -> tf.data.Dataset:
        if job.synthetic_data:
            return pipeline.synthetic_dataset(dataset, replica_batch=replica_batch)
        return pipeline.training_dataset(
            dataset,
            order,
            replica_batch=replica_batch,
            first_step=first_step,
            epochs=job.epochs,
            worker=context.input_pipeline_id,
            workers=context.num_input_pipelines,
        )

    return strategy.distribute_datasets_from_function(worker_input)


def _set_up(job: TrainConfig) -> None:
    if job.deterministic:
        tf.config.experimental.enable_op_determinism()
    if job.debug_nans:
        tf.debugging.enable_check_numerics()
    # Keras runs its step as a function all the same, unless it is told at compile time; the loops of this package are
    # told here.
    tf.config.run_functions_eagerly(job.run_eagerly)


if __name__ == "__main__":
    config.define_flags()
    app.run(main)
