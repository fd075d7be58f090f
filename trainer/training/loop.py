"""Training: the network, its input and the callbacks of `fit`, put together."""

import logging
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.dataset import manifest
from trainer.dataset.training_order import TrainingOrder, last_step
from trainer.evaluation import evaluate
from trainer.evaluation.predict_split import SplitPredictor
from trainer.input import pipeline
from trainer.input.shard_cache import ShardCache
from trainer.model import augment, fine_tuning, networks, objective
from trainer.process.signals import StopRequest
from trainer.training import callbacks, checkpoints
from trainer.training.consensus import StopVote, check_same_state, check_same_weights

_log = logging.getLogger(__name__)


def is_complete(job: TrainConfig, order: TrainingOrder, job_dir: epath.Path) -> bool:
    """Whether nothing of a job is left to train, so that it needs no cluster: what is left is for the chief alone."""
    progress = checkpoints.read_progress(job_dir)
    return progress.step >= last_step(job, order) or callbacks.exhausted(progress, job.early_stopping)


def train(
    job: TrainConfig,
    dataset: manifest.Dataset,
    order: TrainingOrder,
    job_dir: epath.Path,
    strategy: tf.distribute.Strategy,
    *,
    cluster: Cluster,
    stop: StopRequest,
    check: Callable[[], None],
    weights: list[np.ndarray] | None = None,
) -> None:
    """Trains from the newest backup, or from the start, to the job's last step.

    Args:
      job: the job.
      dataset: the data set.
      order: what `plan` made of them.
      job_dir: where everything is written.
      strategy: what to train under.
      cluster: this worker's place among its peers; the chief alone writes.
      stop: tells when someone asks the process to stop.
      check: raises before a write if the directory is no longer this process's.
      weights: those of others with which the pretrained part begins, where the job does.

    Raises:
      UserError: the loss is not finite, or no backup can be read.
      Stopped: someone asked for it; the state is saved.
      LostPeer: someone asked another worker to stop, or the workers do not agree on where to begin.
    """
    vote = StopVote(lambda: stop.requested, workers=cluster.workers)
    steps_per_epoch, last = order.steps_per_epoch, last_step(job, order)
    _log.info(
        "%d steps of %d films an epoch, which leaves out %d others each time", steps_per_epoch, job.batch_size, order.left_out
    )
    if warning := order.warning(cluster.workers):
        _log.warning(warning)
    with strategy.scope():
        network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
        split = dataset.split("train")
        loss = objective.GenreLoss()
        compile_network(network, job, loss)
    network.more_metrics = vote.figures
    training_state = checkpoints.TrainingState(network, job_dir, writes=cluster.is_chief, check=check)
    if training_state.restore():
        _log.info("resuming at step %d of %d", training_state.progress.step, last)
        before, now = len(training_state.progress.metrics), strategy.num_replicas_in_sync
        if before != now:
            _log.info("it was saved by %d replica(s) and goes on on %d, with the same films in every step", before, now)
    else:
        # Else the first epochs go into learning how rare the genres are (Lin et al. 2017, "Focal Loss for Dense Object Detection").
        network.get_layer("genres").bias.assign(objective.best_constant(split.genre_counts, split.examples))
        if network.pretrained is not None and weights is not None:
            network.pretrained.backbone.set_weights(weights)
    if cluster.workers > 1:
        check_same_state(strategy, training_state.progress)
        if weights is not None:
            check_same_weights(strategy, weights, workers=cluster.workers)
    cache = ShardCache(dataset, job.cache) if job.cache else None
    validation = SplitPredictor(strategy, network, dataset, "validation", batch_size=job.batch_size, cache=cache)

    def validate() -> dict[str, float | None]:
        with stop.at_once():
            return evaluate.epoch_metrics(validation, loss)

    on_terminal = cluster.is_chief and sys.stdout.isatty() and job.log_format != "json"
    # At an epoch's end each adds to its figures, or keeps them, in this order.
    in_order: list[keras.callbacks.Callback] = [
        callbacks.LearningRate(
            objective.learning_rate(job, steps_per_epoch=steps_per_epoch),
            training_state,
            multiplier=fine_tuning.multiplier(job, steps_per_epoch=steps_per_epoch),
        ),
        callbacks.BackupAndRestore(
            training_state,
            every=job.backup_steps,
            steps_per_epoch=steps_per_epoch,
            last_step=last,
            vote=vote,
        ),
        callbacks.Validation(validate),
        callbacks.History(training_state, job_dir / "history.csv"),
        callbacks.ModelCheckpoint(training_state),
        callbacks.EarlyStopping(training_state, patience=job.early_stopping),
    ]
    if cluster.is_chief:
        in_order.append(keras.callbacks.TensorBoard(str(job_dir / "logs"), write_graph=False, profile_batch=0))
    if cluster.is_chief and job.profile_range:
        first, final = job.profile_range
        in_order.append(callbacks.Profile(training_state, job_dir / "logs", first=first, last=final))
    if cluster.is_chief and not on_terminal:
        in_order.append(callbacks.EpochLine(training_state, batch_size=job.batch_size, epochs=job.epochs))

    progress = training_state.progress
    with stop.deferred():
        if callbacks.epoch_is_unfinished(progress, steps_per_epoch=steps_per_epoch, last_step=last):
            callbacks.finish_epoch(network, training_state, in_order, steps_per_epoch=steps_per_epoch)
        if progress.step < last and not callbacks.exhausted(progress, job.early_stopping):
            network.fit(
                _input(job, dataset, order, strategy, first_step=progress.step, cache=cache),
                epochs=job.epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=in_order,
                verbose=1 if on_terminal else 0,
            )
    stop.check()


def compile_network(network: networks.Network, job: TrainConfig, loss: keras.losses.Loss) -> None:
    """Gives a network its loss, figures and optimizer, with all the variables that a checkpoint of them holds."""
    network.compile(
        optimizer=objective.optimizer(job, network.pretrained),
        loss=loss,
        metrics=objective.training_metrics(),
        run_eagerly=job.run_eagerly,
        steps_per_execution=job.steps_per_execution,
    )
    network.optimizer.build(network.trainable_variables)
    # Keras builds these at the first step, which is too late to restore them.
    network.compiled_loss.build(network.output)
    network.compiled_metrics.build(network.output, network.output)


def _input(
    job: TrainConfig,
    dataset: manifest.Dataset,
    order: TrainingOrder,
    strategy: tf.distribute.Strategy,
    *,
    first_step: int,
    cache: ShardCache | None,
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
            mixed=augment.STRENGTHS[job.augment].mixed if job.augment != "none" else 0.0,
            cache=cache,
        )

    return strategy.distribute_datasets_from_function(worker_input)
