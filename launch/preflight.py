"""What is looked at before a job is started, so that it does not end a quarter of an hour later for what could be known.

The rules are those of the trainer itself, which a worker goes by again when it starts.
"""

import dataclasses
import os

from launch import local
from launch.job import Job
from launch.showing import tell
from trainer.errors import UserError

_MOUNT = "/gcs/"  # Where Vertex AI and Cloud Storage FUSE show buckets to the workers.


def check_description(job: Job, *, is_remote: bool) -> None:
    """Checks what can be known of a job without looking at its data.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines.

    Raises:
      UserError: the batch does not divide among the workers or their devices.
    """
    job.training.check_divides(job.workers, "workers")
    if job.training.strategy != "one_device":
        job.training.check_divides(job.workers * max(1, _devices_of_each(job, is_remote=is_remote)), "replicas")


def _devices_of_each(job: Job, *, is_remote: bool) -> int:
    """How many devices a worker has besides its CPUs."""
    if is_remote:
        return job.device.replicas if job.device else 0
    return len(local.visible_gpus({**os.environ, **job.env})) if job.workers == 1 else 1


def check_places(job: Job, *, is_remote: bool) -> None:
    """Looks at the data set and the job directory, as far as they can be seen from here.

    Args:
      job: the job.
      is_remote: whether the workers run on other machines, whose folders are not this one's; buckets that they have as folders
        are looked at where they are.

    Raises:
      Ended: the data set is none, not finished or damaged; the job directory belongs to another job or is of another configuration.
    """
    # Only here: Cloud Storage's client takes a second to import.
    from trainer import job_dir, lock
    from trainer.data import shards

    config = job.training
    places = {name: _seen_from_here(getattr(config, name), is_remote=is_remote) for name in ("data_dir", "job_dir")}
    for name, place in places.items():
        if place is None:
            tell(f"--{name}={getattr(config, name)} is a folder of the workers: it was not looked at")
    if places["data_dir"] is None:
        return
    dataset = shards.load(places["data_dir"])
    splits = {name: dataset.split(name) for name in shards.SPLITS}
    train = splits["train"]
    if config.batch_size > train.examples:
        raise UserError(
            f"--batch_size={config.batch_size} is more than the {train.examples} training examples of {dataset.path}: lower it"
        )
    if len(train.shards) < job.workers:
        tell(
            f"{dataset.path} has {len(train.shards)} training shards for {job.workers} workers: each reads films of others too; "
            "trainer.prepare makes more, and smaller ones, with --shards"
        )
    if places["job_dir"] is None:
        return
    directory = job_dir.describe(dataclasses.replace(config, job_dir=places["job_dir"]), dataset)
    lock.check_free(directory.lock_path)
    if config.fresh:
        return
    directory.check_resumable()
    if directory.is_finished():
        tell(f"{directory.path} is finished: the workers will find nothing to do")


def _seen_from_here(place: str, *, is_remote: bool) -> str | None:
    """Where this machine finds what a worker knows by this name; None: nowhere."""
    if not is_remote or place.startswith("gs://"):
        return place
    return f"gs://{place.removeprefix(_MOUNT)}" if place.startswith(_MOUNT) else None
