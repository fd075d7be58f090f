"""Trains a network on a data set, then evaluates and exports it: `python -m trainer.task --data_dir=DIR --job_dir=DIR`.

A job that was killed is started again with the same command: it goes on at its last backup, and ends as if nothing had happened.
On several workers each runs this command, and finds its place among them in the environment (see `trainer.cluster.discovery`).
"""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import tensorflow as tf
from absl import flags

from trainer import config
from trainer.cluster import discovery, rendezvous, tf_errors
from trainer.cluster import strategy as strategies
from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.dataset import manifest, training_order
from trainer.errors import LostPeer, UserError
from trainer.evaluation import evaluate
from trainer.evaluation.metrics import calibration, metrics
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import text
from trainer.job import history, job_dir, lock
from trainer.job.job_dir import JobDir
from trainer.job.run_record import RunRecord
from trainer.model import export, networks, pretrained
from trainer.process import allocation, entry, guarded, heartbeat, log
from trainer.process.signals import StopRequest
from trainer.storage import files
from trainer.training import checkpoints, consensus, loop, standby

_log = logging.getLogger("trainer.task")


def main(arguments: list[str]) -> None:
    """Runs a job to its end, from wherever it is, as its chief or as one of the other workers."""
    guarded.under_guard()
    allocation.keep_freed_memory()
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag of trainer.task: options are written --name=value")
    place = discovery.discover()
    log.configure(job.log_format, worker=place.index)
    if job.fresh and place.workers > 1 and job_dir.launched_as() is None:
        raise UserError("--fresh on several workers needs POSTER_JOB_ID, one value for all of them: set it, or leave --fresh out")
    if job.run_eagerly and place.workers > 1:
        raise UserError("--run_eagerly is for one worker: TensorFlow's workers exchange nothing eagerly; leave it out, or use one")
    stop = StopRequest()
    dataset = manifest.load(job.data_dir)
    directory = job_dir.describe(job, dataset)
    directory.make()
    (_lead if place.is_chief else _assist)(job, dataset, directory, place, stop)


def _lead(job: TrainConfig, dataset: manifest.Dataset, directory: JobDir, place: Cluster, stop: StopRequest) -> None:
    """Runs a job as its chief, or alone: the only worker that writes."""
    with lock.held(directory.lock_path, directory.job_id) as owned:
        directory.check_not_failed()
        if job.fresh and not directory.was_begun_by_this_launch():
            directory.move_aside()
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished: its report is %s", directory.path, directory.evaluation / "report.html")
            return
        try:
            with tf_errors.explained(dataset, batch_size=job.batch_size, workers=place.workers):
                _run(job, dataset, directory, place, owned, stop)
        except UserError as error:
            owned.check()
            directory.fail(str(error))
            raise


def _assist(job: TrainConfig, dataset: manifest.Dataset, directory: JobDir, place: Cluster, stop: StopRequest) -> None:
    """Trains as one of the chief's peers, and stays until the chief has evaluated and exported."""
    # With --fresh, what is there may be an earlier job's that the chief is about to move aside.
    own = not job.fresh or directory.was_begun_by_this_launch()
    directory.check_not_failed()
    if own:
        directory.check_resumable()
        if directory.is_finished():
            _log.info("%s is finished", directory.path)
            return
    with tf_errors.explained(dataset, batch_size=job.batch_size, workers=place.workers):
        _set_up(job)
        order = training_order.plan(job, dataset, workers=place.workers)
        is_trained = functools.partial(loop.is_complete, job, order, directory.path)
        chief = None
        if not (own and is_trained()):

            def beat() -> None:
                heartbeat.beat()
                # Only now has the chief saved what it and the others had trained when this worker was lost.
                if own and is_trained():
                    raise LostPeer("the others have finished training meanwhile")

            strategy = _form(job, place, directory, stop, beat=beat)
            chief = lock.read(directory.lock_path)
            weights = _initial_weights(job, directory)
            loop.train(job, dataset, order, directory.path, strategy, cluster=place, stop=stop, check=lambda: None, weights=weights)
    standby.wait_for_chief(directory, chief=chief, is_saved=is_trained, timeout=job.peer_timeout)


def _run(
    job: TrainConfig, dataset: manifest.Dataset, directory: JobDir, place: Cluster, owned: lock.Lock, stop: StopRequest
) -> None:
    """Trains, evaluates and exports."""
    _set_up(job)
    order = training_order.plan(job, dataset, workers=place.workers)
    trained = loop.is_complete(job, order, directory.path)
    # Evaluation is the chief's alone: it needs no peers then, and ends the same however many there were.
    strategy = strategies.create("auto") if trained and place.workers > 1 else _form(job, place, directory, stop)
    weights = None if trained else _initial_weights(job, directory)
    # What can be refused has been by now: only then is anything of an earlier, shorter job taken away.
    directory.begin()
    run = RunRecord(directory.path / "run.json", data_dir=job.data_dir, check=owned.check)
    run.note(strategy=type(strategy).__name__, replicas=strategy.num_replicas_in_sync, workers=place.workers)
    if trained:
        _log.info("nothing is left to train")
    else:
        loop.train(job, dataset, order, directory.path, strategy, cluster=place, stop=stop, check=owned.check, weights=weights)
        run.mark("trained")
        if place.workers > 1:
            _begin_anew()
    directory.clear_results()
    # As many films at a time as one of the workers had in training: they fit its memory.
    figures = _evaluate(job, dataset, directory, strategy, owned, batch_size=job.batch_size // place.workers)
    run.mark("finished")
    directory.finish({"step": checkpoints.read_progress(directory.path).step})
    checkpoints.delete_backups(directory.path)
    print(text.table(figures))
    _log.info("the report is %s, the model %s", directory.evaluation / "report.html", directory.path / "model")


def _form(
    job: TrainConfig, place: Cluster, directory: JobDir, stop: StopRequest, *, beat: Callable[[], None] = heartbeat.beat
) -> tf.distribute.Strategy:
    """Makes the strategy, with all peers where there are any; `beat` is called while it waits for them."""
    if place.workers > 1:
        rendezvous.wait(place, timeout=job.peer_timeout, beat=beat)
        # From here on TensorFlow would wait for the peers again when the process ends.
        entry.leave_at_once()
        heartbeat.beat(heartbeat.CONNECTING)
    strategy = strategies.create(job.strategy, place)
    stop.listen()
    if place.workers > 1:
        heartbeat.beat()
        consensus.check_same_job(strategy, directory.description | {"backup_steps": job.backup_steps}, workers=place.workers)
    job.check_divides(strategy.num_replicas_in_sync, "replicas")
    return strategy


def _initial_weights(job: TrainConfig, directory: JobDir) -> list[np.ndarray] | None:
    """The weights of others with which a job begins, if it does: one that resumes has its own."""
    if not job.is_pretrained or checkpoints.is_begun(directory.path):
        return None
    return pretrained.load(job)


def _begin_anew() -> NoReturn:
    """Starts this process again, as it would be started if it died now: TensorFlow cannot leave a cluster."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)


def _evaluate(
    job: TrainConfig,
    dataset: manifest.Dataset,
    directory: JobDir,
    strategy: tf.distribute.Strategy,
    owned: lock.Lock,
    *,
    batch_size: int,
) -> dict:
    """Evaluates the best weights, at the temperature and thresholds chosen on the validation split, and exports them."""
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
    thresholds = metrics.tune_thresholds(validation.predictions(logits, temperature))
    owned.check()
    figures = evaluate.evaluate(
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
    entry.run(main)
