"""Trains a network on a data set, then evaluates and exports it: `python -m trainer.task --data_dir=DIR --job_dir=DIR`.

A job that was killed is started again with the same command: it goes on from its last backup, and ends as if nothing had happened.
On several workers each runs this command, and finds its place among them in the environment (see `trainer.cluster.discovery`).
"""

import logging

from absl import flags

from trainer import config
from trainer.cluster import discovery
from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.job import job_dir
from trainer.process import allocation, entry, guarded, log, tensorflow_start
from trainer.process.signals import StopRequest

_log = logging.getLogger("trainer.task")


def main(arguments: list[str]) -> None:
    """Runs a job to its end, from wherever it is, as its chief or as one of the other workers."""
    guarded.under_guard()
    allocation.keep_freed_memory()
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag of trainer.task: write options as --name=value")
    cluster = discovery.discover()
    log.configure(job.log_format, worker=cluster.index)
    if job.fresh and cluster.workers > 1 and job_dir.launched_as() is None:
        raise UserError("--fresh on several workers needs POSTER_JOB_ID: set it to one value for all workers, or leave --fresh out")
    if job.run_eagerly and cluster.workers > 1:
        raise UserError(
            "--run_eagerly is for one worker, because collective operations need graphs: leave it out, or use one worker"
        )
    stop = StopRequest()
    dataset = manifest.load(job.data_dir)
    directory = job_dir.describe(job, dataset)
    directory.make()
    if cluster.is_chief:
        _log.info("data set: %s", _summary(dataset))
        _log.info("job directory: %s", directory.path)

    # TensorFlow takes seconds to import: a mistake in the flags has been reported by now.
    tensorflow_start.start()
    from trainer.training import run

    (run.lead if cluster.is_chief else run.assist)(job, dataset, directory, cluster, stop)


def _summary(dataset: manifest.Dataset) -> str:
    films = ", ".join(f"{split.examples:,} films in {name}" for name, split in dataset.splits.items())
    images = f"images of {dataset.height} x {dataset.width} pixels ({dataset.encoding})"
    return f"{dataset.path}, {films}, {len(dataset.genres)} genres, {images}, fingerprint {dataset.fingerprint[:12]}"


if __name__ == "__main__":
    config.define_flags()
    flags.adopt_module_key_flags(config)  # So that --help lists them.
    entry.run(main)
