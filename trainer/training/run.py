"""A worker's run of a job: the chief trains, evaluates and exports, the others train and wait for the chief.

The chief and its peers go through these phases:

1. look into the job directory (below);
2. wait for all peers, and form the cluster;
3. train (`loop.train`);
4. the chief starts itself anew as a process without a cluster, evaluates the best weights, exports the model, and writes DONE.json
   last; the others wait for DONE.json.

Where a job goes on depends on the job directory. The first of these rules that applies decides:

1. FAILED.json of this launch and configuration: exit 2 with the same line;
2. --fresh, and this launch has not begun the job yet: the old contents move to old-N/, and the job starts at step 0;
3. config.json differs in a field that decides the result, or has more epochs: exit 2 with the differences;
4. DONE.json for these epochs: exit 0 at once;
5. the last state is at the last step, or early stopping had ended training: the chief evaluates and exports, without a cluster;
6. a state in backup/ or checkpoints/last: training goes on from the newest that can be read (see `checkpoints`);
7. else training starts at step 0, from random or pretrained weights.
"""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.cluster import rendezvous, tf_errors
from trainer.cluster import strategy as strategies
from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.dataset import training_order
from trainer.dataset.manifest import Dataset
from trainer.errors import LostPeer, UserError
from trainer.evaluation import evaluate
from trainer.evaluation.metrics import calibration
from trainer.evaluation.metrics.thresholds import tune_thresholds
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import text
from trainer.job import history, lock
from trainer.job.job_dir import JobDir
from trainer.job.run_record import RunRecord
from trainer.model import export, networks, pretrained
from trainer.process import entry, heartbeat, log, tensorflow_start
from trainer.process.signals import StopRequest
from trainer.storage import files
from trainer.training import checkpoints, consensus, loop, standby

_log = logging.getLogger(__name__)


def lead(job: TrainConfig, dataset: Dataset, directory: JobDir, cluster: Cluster, stop: StopRequest) -> None:
    """Runs a job as its chief, or alone: as the only worker that writes.

    Args:
      job: the job's flags.
      dataset: the data set.
      directory: the job directory.
      cluster: this worker's place among its peers.
      stop: the listener for SIGTERM and Ctrl-C.

    Raises:
      Ended: the job did not end well; the reason of a UserError is in FAILED.json as well.
      Stopped: this process was asked to stop; the state is saved.
    """
    with lock.held(directory.lock_path, directory.job_id) as owned:
        directory.check_not_failed()
        if job.fresh and not directory.was_begun_by_this_launch():
            directory.move_aside()
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished: its report is %s", directory.path, directory.evaluation / "report.html")
            return
        try:
            with tf_errors.explained(dataset, batch_size=job.batch_size, workers=cluster.workers):
                _train_and_evaluate(job, dataset, directory, cluster, owned, stop)
        except UserError as error:
            owned.check()
            directory.fail(str(error))
            raise


def assist(job: TrainConfig, dataset: Dataset, directory: JobDir, cluster: Cluster, stop: StopRequest) -> None:
    """Trains as one of the chief's peers, and waits until the chief has evaluated and exported.

    Args:
      job: the job's flags.
      dataset: the data set.
      directory: the job directory.
      cluster: this worker's place among its peers.
      stop: the listener for SIGTERM and Ctrl-C.

    Raises:
      Ended: the job did not end well.
      Stopped: this process was asked to stop; the state is saved.
    """
    # With --fresh the contents may be an earlier job's, which the chief is about to move aside.
    is_this_job = not job.fresh or directory.was_begun_by_this_launch()
    directory.check_not_failed()
    if is_this_job:
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished", directory.path)
            return
    # When training is done the chief leaves the cluster, which TensorFlow reports on the stderr of its peers as an error.
    with tensorflow_start.quiet():
        _train_and_wait(job, dataset, directory, cluster, stop, is_this_job=is_this_job)


def _train_and_wait(
    job: TrainConfig, dataset: Dataset, directory: JobDir, cluster: Cluster, stop: StopRequest, *, is_this_job: bool
) -> None:
    """Trains and waits for the chief; `is_this_job` is false where the job directory may still have another job's contents."""
    with tf_errors.explained(dataset, batch_size=job.batch_size, workers=cluster.workers):
        _configure_tensorflow(job)
        order = training_order.plan(job, dataset, workers=cluster.workers)
        is_trained = functools.partial(loop.is_complete, job, order, directory.path)
        chief = None
        if not (is_this_job and is_trained()):

            def beat() -> None:
                heartbeat.beat()
                # The chief may save what all had trained only after this worker was lost and has started again.
                if is_this_job and is_trained():
                    raise LostPeer("the other workers have finished training meanwhile")

            strategy = _form_cluster(job, cluster, directory, stop, beat=beat)
            chief = lock.read(directory.lock_path)
            weights = _pretrained_weights(job, directory)
            loop.train(
                job, dataset, order, directory.path, strategy, cluster=cluster, stop=stop, check=lambda: None, weights=weights
            )
    standby.wait_for_chief(directory, chief=chief, is_saved=is_trained, timeout=job.peer_timeout)


def _train_and_evaluate(
    job: TrainConfig, dataset: Dataset, directory: JobDir, cluster: Cluster, owned: lock.Lock, stop: StopRequest
) -> None:
    """Trains, evaluates and exports as the chief."""
    _configure_tensorflow(job)
    order = training_order.plan(job, dataset, workers=cluster.workers)
    is_trained = loop.is_complete(job, order, directory.path)
    # Evaluation is the chief's work alone: it needs no peers, and ends the same however many workers trained.
    needs_cluster = not (is_trained and cluster.workers > 1)
    strategy = _form_cluster(job, cluster, directory, stop) if needs_cluster else strategies.create("auto")
    weights = None if is_trained else _pretrained_weights(job, directory)
    # Whatever can be refused has been refused by now: only from here on are results of a shorter job removed.
    directory.begin()
    run = RunRecord(directory.path / "run.json", data_dir=job.data_dir, versions=_versions(), check=owned.check)
    run.note(strategy=type(strategy).__name__, replicas=strategy.num_replicas_in_sync, workers=cluster.workers)
    if is_trained:
        _log.info("nothing is left to train")
    else:
        loop.train(job, dataset, order, directory.path, strategy, cluster=cluster, stop=stop, check=owned.check, weights=weights)
        run.mark("trained")
        if cluster.workers > 1:
            _restart_without_cluster()
    directory.clear_results()
    # As many films at a time as one worker had in training, which fit its memory.
    results = _evaluate_and_export(job, dataset, directory, strategy, owned, batch_size=job.batch_size // cluster.workers)
    run.mark("finished")
    directory.finish({"step": checkpoints.read_progress(directory.path).step})
    checkpoints.delete_backups(directory.path)
    if log.is_json():  # A log collector shows a warning by its severity, which a printed line does not have.
        for verdict in text.verdicts(results):
            _log.log(logging.INFO if verdict.clear else logging.WARNING, "%s", verdict.sentence)
    print(text.table(results, with_verdicts=not log.is_json()))
    _log.info("done: the report is %s, the model %s", directory.evaluation / "report.html", directory.path / "model")


def _form_cluster(
    job: TrainConfig, cluster: Cluster, directory: JobDir, stop: StopRequest, *, beat: Callable[[], None] = heartbeat.beat
) -> tf.distribute.Strategy:
    """Waits for all peers, if there are any, and makes the strategy; `beat` is called while it waits."""
    if cluster.workers > 1:
        rendezvous.wait(cluster, timeout=job.peer_timeout, beat=beat)
        # From here on TensorFlow would wait for the peers again when the process ends.
        entry.leave_at_once()
        heartbeat.beat(heartbeat.CONNECTING)
    strategy = strategies.create(job.strategy, cluster)
    stop.listen()
    if cluster.workers > 1:
        heartbeat.beat()
        consensus.check_same_job(strategy, directory.description | {"backup_steps": job.backup_steps}, workers=cluster.workers)
    job.check_divides(strategy.num_replicas_in_sync, "replicas")
    return strategy


def _pretrained_weights(job: TrainConfig, directory: JobDir) -> list[np.ndarray] | None:
    """Returns the pretrained weights that a job starts with; None where it has none, or resumes from a state of its own."""
    if not job.is_pretrained or checkpoints.is_begun(directory.path):
        return None
    return pretrained.load(job)


def _restart_without_cluster() -> NoReturn:
    """Starts this process anew, as a restart after a kill would: TensorFlow cannot leave a cluster.

    The new process finds that training is complete (rule 5 at the top of this module), and goes on with the evaluation.
    """
    _log.info("training is done: starting anew without the other workers, to evaluate")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)


def _evaluate_and_export(
    job: TrainConfig, dataset: Dataset, directory: JobDir, strategy: tf.distribute.Strategy, owned: lock.Lock, *, batch_size: int
) -> dict[str, Any]:
    """Evaluates the best weights, with the temperature and thresholds chosen on the validation split, and exports them.

    Returns:
      The content of metrics.json.
    """
    epochs = checkpoints.read_progress(directory.path).history
    _log.info("evaluating the weights of epoch %d", history.best(epochs)["epoch"])
    with strategy.scope():
        network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    checkpoints.restore_best(network, directory.path)
    validation, test = (
        SplitPredictor(strategy, network, dataset, split, batch_size=batch_size) for split in ("validation", "test")
    )
    logits = validation.logits()
    temperature = calibration.fit_temperature(validation.labels, logits)
    thresholds = tune_thresholds(validation.predictions(logits, temperature))
    owned.check()
    results = evaluate.evaluate_split(
        test,
        dataset,
        directory.evaluation,
        split="test",
        thresholds=thresholds,
        temperature=temperature,
        config=directory.description,
        history=epochs,
    )
    owned.check()
    _log.info("exporting the model")
    with files.built_on_disk(directory.path / "model") as folder:
        export.export(
            lambda images: networks.logits(network, images),
            folder,
            genres=dataset.genres,
            height=dataset.height,
            width=dataset.width,
            temperature=temperature,
        )
        owned.check()
    return results


def _configure_tensorflow(job: TrainConfig) -> None:
    if job.deterministic:
        tf.config.experimental.enable_op_determinism()
    if job.debug_nans:
        tf.debugging.enable_check_numerics()
    # Keras's loop is told when a network is compiled; the loops of this package are told here.
    tf.config.run_functions_eagerly(job.run_eagerly)


def _versions() -> dict[str, str]:
    # From the modules: tensorflow-tpu is another distribution of the module tensorflow.
    return {"tensorflow": tf.__version__, "tf_keras": keras.__version__}
