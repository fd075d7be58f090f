"""What is looked at before a job is started, so that it does not end a quarter of an hour later for what could be known.

The rules are those of the trainer itself, which a worker goes by again when it starts.
"""

import dataclasses

from launch import buckets
from launch.console import tell
from launch.job import Job
from trainer.errors import Ended, UserError


def check_description(job: Job, *, is_remote: bool) -> None:
    """Checks what can be known of a job without looking at its data.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines.

    Raises:
      UserError: the batch does not divide among the workers or their accelerators, or these are not what the strategy needs.
    """
    training = job.training
    training.check_divides(job.workers, "workers")
    if not is_remote:  # How many devices TensorFlow finds here, the worker knows in a moment.
        return
    if training.strategy == "tpu" and job.device is None:
        raise UserError("--strategy=tpu needs a TPU: add --accelerator, such as tpu-v5-lite-podslice:4")
    if training.strategy != "one_device" and job.device:
        training.check_divides(job.workers * job.device.replicas, "replicas")


def check_places(job: Job, *, is_remote: bool) -> None:
    """Looks at the data set and the job directory.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines; buckets that they have as folders are looked at where they are.

    Raises:
      Ended: the data set is none, not finished or damaged; the job directory belongs to another job or is of another configuration.
    """
    if not is_remote:
        _check_places(job, job.training.data_dir, job.training.job_dir)
        return
    data_dir, job_dir = (buckets.address(name, getattr(job.training, name)) for name in ("data_dir", "job_dir"))
    tell(f"looking at {data_dir} and {job_dir}")
    try:
        _check_places(job, data_dir, job_dir)
    except Ended as error:
        raise type(error)(f"{error} (where the workers may see more than you: --skip_preflight)") from None


def _check_places(job: Job, data_dir: str, directory: str) -> None:
    # Only here: Cloud Storage's client takes a second to import.
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
        tell(f"{found.path} is finished: the workers will find nothing to do")
