"""The order in which training sees the films, and whether a job's flags fit it.

The order is a function of the seed, the epoch and the shards, never of how many workers read them. An epoch is a sequence of
positions. It permutes the shards and opens `open_shards` of them at a time, which is a round. The positions of a round go to its
shards in fixed rotation, and each shard yields its records through a deterministic shuffle window. Positions [s·B, (s+1)·B) are
the global batch of step s, and worker w of N supplies the positions p ≡ w (mod N).

This module needs no TensorFlow, so a launcher refuses what a worker would refuse. `trainer.input.pipeline` reads in this order.
"""

import sys
from dataclasses import dataclass

from trainer.config import TrainConfig
from trainer.dataset import manifest
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """Which film stands at which position of which epoch.

    Attributes:
      paths: the paths of the training shards, [S].
      examples: the number of records in each shard, [S].
      batch_size: the size of the global batch.
      open_shards: the number of shards that are read at the same time, at most S.
      shuffle_window: the number of records of one shard that are shuffled among each other; they are held in memory.
      seed: the seed of the permutations.
    """

    paths: tuple[str, ...]
    examples: tuple[int, ...]
    batch_size: int
    open_shards: int
    shuffle_window: int
    seed: int

    @property
    def records_per_shard(self) -> int:
        """Records that every shard gives to an epoch: as many as the smallest has, so that the rotation never breaks."""
        return min(self.examples)

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self.records_per_shard * len(self.paths) // self.batch_size

    @property
    def left_out(self) -> int:
        """Films that an epoch leaves out, different ones each time: fewer than shards + batch."""
        return sum(self.examples) - self.steps_per_epoch * self.batch_size

    def divides_among(self, workers: int) -> bool:
        """Returns whether each worker can open only the shards that its own films are in; else it reads every open shard."""
        return self.open_shards % workers == 0 and len(self.paths) % self.open_shards == 0

    def warning(self, workers: int) -> str | None:
        """Returns what a user should know about reading in this order on so many workers, or None."""
        if workers == 1 or self.divides_among(workers):
            return None
        return (
            f"{len(self.paths)} training shards, {self.open_shards} open at a time, do not divide among {workers} workers: each "
            "worker reads all of them and keeps its own films; change --open_shards, or prepare the data set with other --shards"
        )


def create(dataset: manifest.Dataset, *, batch_size: int, open_shards: int, shuffle_window: int, seed: int) -> TrainingOrder:
    """Returns the order in which a job sees the training split of a data set.

    Args:
      dataset: the data set.
      batch_size: the size of the global batch.
      open_shards: the number of shards to read at the same time; at most all shards of the split are open.
      shuffle_window: the number of records of one shard that are shuffled among each other.
      seed: the job's seed.

    Raises:
      UserError: the split is empty, or an epoch holds less than one batch.
    """
    split = dataset.split("train")
    order = TrainingOrder(
        paths=tuple(dataset.shard_paths("train")),
        examples=tuple(shard.examples for shard in split.shards),
        batch_size=batch_size,
        open_shards=min(open_shards, len(split.shards)),
        shuffle_window=shuffle_window,
        seed=seed,
    )
    if order.steps_per_epoch == 0:
        usable = order.records_per_shard * len(order.paths)
        raise UserError(
            f"--batch_size={batch_size} is larger than an epoch of {dataset.path}, which takes {usable} films "
            f"({order.records_per_shard} from each of {len(order.paths)} shards): choose a smaller batch"
        )
    return order


def plan(config: TrainConfig, dataset: manifest.Dataset, *, workers: int) -> TrainingOrder:
    """Checks a job against its data set, and returns the order in which it sees the films.

    Args:
      config: the job's flags.
      dataset: the data set.
      workers: the number of workers that train.

    Raises:
      UserError: a split is empty; the batch does not divide among the workers or is larger than an epoch; --max_steps does not
        fit --steps_per_execution; or --profile_steps goes beyond the last step.
    """
    for split in manifest.SPLITS:
        dataset.split(split)
    config.check_divides(workers, "workers")
    order = create(
        dataset,
        batch_size=config.batch_size,
        open_shards=config.open_shards,
        shuffle_window=config.shuffle_window,
        seed=config.seed,
    )
    last = last_step(config, order)
    remainder = last % order.steps_per_epoch
    if remainder % config.steps_per_execution:
        raise UserError(
            f"--max_steps={config.max_steps} ends {remainder} steps into an epoch of {order.steps_per_epoch} steps, which is not a "
            f"multiple of --steps_per_execution={config.steps_per_execution}: change one of them"
        )
    if config.profile_range and config.profile_range[1] > last:
        raise UserError(f"--profile_steps={config.profile_steps} goes beyond the job's last step, {last}: choose earlier steps")
    return order


def last_step(config: TrainConfig, order: TrainingOrder) -> int:
    """Returns the global step at which a job ends unless it stops early."""
    return min(config.epochs * order.steps_per_epoch, config.max_steps or sys.maxsize)
