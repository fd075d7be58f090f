"""Checks a job before it starts, so that it does not fail a quarter of an hour later for a reason that can be known now.

The rules are the trainer's own; a worker checks them again when it starts.
"""

import dataclasses

from launch import buckets
from launch.console import tell
from launch.job import Job
from trainer.errors import Ended, UserError


def check_description(job: Job, *, is_remote: bool) -> None:
    """Checks what can be known of a job without reading its data set.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines.

    Raises:
      UserError: the batch does not divide among the workers or their accelerators, or the strategy needs another accelerator.
    """
    training = job.training
    training.check_divides(job.workers, "workers")
    if not is_remote:  # A local worker will find out in a moment how many devices it has.
        return
    if training.strategy == "tpu" and job.device is None:
        raise UserError("--strategy=tpu needs a TPU: add --accelerator, such as tpu-v5-lite-podslice:4")
    if training.strategy != "one_device" and job.device:
        training.check_divides(job.workers * job.device.replicas, "replicas")


def check_paths(job: Job, *, is_remote: bool) -> None:
    """Checks the data set and the job directory, and whether the job's flags fit them.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines; a bucket that they mount as a folder is read as gs:// here.

    Raises:
      Ended: there is no data set, or it is damaged; the flags do not fit it; the job directory is in use, or holds a job with
        another configuration; or Cloud Storage does not answer.
    """
    if not is_remote:
        _check_paths(job, job.training.data_dir, job.training.job_dir)
        return
    data_dir, job_dir = (buckets.to_uri(name, getattr(job.training, name)) for name in ("data_dir", "job_dir"))
    tell(f"checking {data_dir} and {job_dir}")
    try:
        _check_paths(job, data_dir, job_dir)
    except Ended as error:
        raise type(error)(f"{error} (if the workers can read what you cannot, use --skip_preflight)") from None


def _check_paths(job: Job, data_dir: str, directory: str) -> None:
    # Imported only here, because the client of Cloud Storage takes a second to import.
    from trainer.dataset import manifest, training_order
    from trainer.job import job_dir, lock

    config = job.training
    dataset = manifest.load(data_dir)
    order = training_order.plan(config, dataset, workers=job.workers)
    if warning := order.warning(job.workers):
        tell(f"{dataset.path}: {warning}")
    found = job_dir.describe(dataclasses.replace(config, job_dir=directory), dataset)
    lock.check_free(found.lock_path)
    if config.fresh:
        return
    found.check_resumable()
    if found.is_finished():
        tell(f"{found.path} holds a finished job: the workers will exit at once")
