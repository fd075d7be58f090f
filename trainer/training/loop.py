"""Training: the network, its input and the callbacks of `fit`, put together."""

import logging
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
from trainer.process import log
from trainer.process.signals import StopRequest
from trainer.training import callbacks, checkpoints
from trainer.training.checkpoints import TrainingState
from trainer.training.consensus import StopVote, check_same_state, check_same_weights
from trainer.training.watch import Watch

_log = logging.getLogger(__name__)


def is_complete(job: TrainConfig, order: TrainingOrder, job_dir: epath.Path) -> bool:
    """Returns whether nothing is left to train, so that no cluster is needed: what is left is the chief's work alone.

    Args:
      job: the job's flags.
      order: the order in which the job sees the films.
      job_dir: the job directory.
    """
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
    """Trains from the newest state, or from the start, to the job's last step.

    All workers call it, and go through the same phases:

    1. build the network, with its loss, metrics and optimizer;
    2. restore the newest state, or set the initial weights;
    3. compare states and weights among the workers;
    4. finish an epoch whose steps are done and whose end is not, if the job was killed there;
    5. fit: at each step's end the workers agree whether to stop, and where a backup is due all save the same state; at each
       epoch's end they validate, and the chief writes the history, the checkpoints and the logs.

    Args:
      job: the job's flags.
      dataset: the data set.
      order: the order in which the job sees the films, from `training_order.plan`.
      job_dir: the job directory.
      strategy: the strategy to train under.
      cluster: this worker's place among its peers; only the chief writes.
      stop: the listener for SIGTERM and Ctrl-C.
      check: raises before a write if the directory no longer belongs to this process.
      weights: the pretrained weights of the backbone, for a job that starts from them and does not resume.

    Raises:
      UserError: the loss is not finite, or no state can be read.
      Stopped: this process was asked to stop; the state is saved.
      LostPeer: another worker was asked to stop, or the workers do not start from the same state.
    """
    steps_per_epoch, last = order.steps_per_epoch, last_step(job, order)

    # 1. Build.
    loss = objective.GenreLoss()
    with strategy.scope():
        network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
        compile_network(network, job, loss)
    # Keras sums up a step's metrics over all replicas: so the vote travels as one of them, and costs no exchange of its own.
    vote = StopVote(lambda: stop.requested, workers=cluster.workers)
    network.more_metrics = vote.metrics
    if cluster.is_chief:
        _log_plan(job, network, order)
        if warning := order.warning(cluster.workers):
            _log.warning(warning)

    # 2. Restore.
    state = checkpoints.TrainingState(network, job_dir, writes=cluster.is_chief, check=check)
    progress = state.progress
    restored = state.restore()
    if restored is None:
        _set_initial_weights(network, dataset.split("train"), weights)
    log.at_step(progress.step)
    if cluster.is_chief:
        _log_start(progress, restored, last, replicas=strategy.num_replicas_in_sync)

    # 3. Compare.
    if cluster.workers > 1:
        check_same_state(strategy, progress)
        if weights is not None:
            check_same_weights(strategy, weights, workers=cluster.workers)

    cache = ShardCache(dataset, job.cache) if job.cache else None
    validation = SplitPredictor(strategy, network, dataset, "validation", batch_size=job.batch_size, cache=cache)

    def validate() -> dict[str, float | None]:
        if cluster.is_chief:
            _log.info("validating")
        with stop.at_once():
            return evaluate.epoch_metrics(validation, loss)

    in_order = _callbacks(job, order, state, job_dir, vote=vote, validate=validate, is_chief=cluster.is_chief)
    watch = Watch(
        progress,
        batch_size=job.batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=job.epochs,
        last_step=last,
        log_steps=job.log_steps,
        is_chief=cluster.is_chief,
        summed_replicas=strategy.num_replicas_in_sync if cluster.workers > 1 else 1,
    )
    in_order.append(watch)  # After those that count the step and add the metrics that it tells.
    with stop.deferred():
        # 4. Finish an epoch.
        if callbacks.epoch_is_unfinished(progress, steps_per_epoch=steps_per_epoch, last_step=last):
            callbacks.finish_epoch(network, state, in_order, steps_per_epoch=steps_per_epoch)
        # 5. Fit.
        if progress.step < last and not callbacks.exhausted(progress, job.early_stopping):
            _log.info("training")
            network.fit(
                _input(job, dataset, order, strategy, first_step=progress.step, cache=cache),
                epochs=job.epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=in_order,
                verbose=0,
            )
    stop.check()


def compile_network(network: networks.Network, job: TrainConfig, loss: keras.losses.Loss) -> None:
    """Compiles a network, and makes all the variables that a checkpoint of it holds."""
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


def _set_initial_weights(network: networks.Network, train: manifest.Split, weights: list[np.ndarray] | None) -> None:
    # Without it the first epochs only learn how rare the genres are (Lin et al. 2017, "Focal Loss for Dense Object Detection").
    network.get_layer("genres").bias.assign(objective.best_constant(train.genre_counts, train.examples))
    if network.pretrained is not None and weights is not None:
        network.pretrained.backbone.set_weights(weights)


def _callbacks(
    job: TrainConfig,
    order: TrainingOrder,
    state: TrainingState,
    job_dir: epath.Path,
    *,
    vote: StopVote,
    validate: Callable[[], dict[str, float | None]],
    is_chief: bool,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of `fit`: at an epoch's end each adds to the metrics, or stores them, in this order."""
    steps_per_epoch, last = order.steps_per_epoch, last_step(job, order)
    in_order: list[keras.callbacks.Callback] = [
        callbacks.LearningRate(
            objective.learning_rate(job, steps_per_epoch=steps_per_epoch),
            state,
            multiplier=fine_tuning.multiplier(job, steps_per_epoch=steps_per_epoch),
        ),
        callbacks.BackupAndRestore(
            state,
            every=job.backup_steps,
            steps_per_epoch=steps_per_epoch,
            last_step=last,
            vote=vote,
        ),
        callbacks.Validation(validate),
        callbacks.History(state, job_dir / "history.csv"),
        callbacks.ModelCheckpoint(state),
        callbacks.EarlyStopping(state, patience=job.early_stopping),
    ]
    if is_chief:
        in_order.append(keras.callbacks.TensorBoard(str(job_dir / "logs"), write_graph=False, profile_batch=0))
    if is_chief and job.profile_range:
        first, final = job.profile_range
        in_order.append(callbacks.Profile(state, job_dir / "logs", first=first, last=final))
    return in_order


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


def _log_plan(job: TrainConfig, network: networks.Network, order: TrainingOrder) -> None:
    """Logs what is trained, and for how long."""
    trainable = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    _log.info(
        "network: %s, %s parameters (%s trainable), %s, %s weights",
        *(job.model, f"{network.count_params():,}", f"{trainable:,}", job.precision),
        "random" if job.weights == "none" else job.result_fields()["weights"],
    )
    _log.info(
        "plan: %d epochs of %d steps of %d films; an epoch leaves out %d films, different ones each time",
        *(job.epochs, order.steps_per_epoch, job.batch_size, order.left_out),
    )


def _log_start(progress: checkpoints.Progress, restored: str | None, last: int, *, replicas: int) -> None:
    """Logs where training starts."""
    if restored is None:
        _log.info("starting at step 0 of %d: there is no state to restore", last)
        return
    _log.info("restored step %d of %d from %s", progress.step, last, restored)
    if progress.metrics and len(progress.metrics) != replicas:
        _log.info(
            "the state was saved by %d replica(s), and training goes on with %d: each step has the same films",
            *(len(progress.metrics), replicas),
        )
