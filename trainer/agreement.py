"""What the workers of a job agree on, so that all of them do the same after the same step."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.config import fingerprint
from trainer.errors import LostPeer, Stopped, UserError


class StopVote:
    """Whether to stop: as soon as any worker was asked to, and after the same step on all of them.

    A worker that left by itself would take with it what the others need to save the state. Each step therefore adds up, in the same
    call as the gradients, how many workers were asked.
    """

    def __init__(self, requested: Callable[[], bool], *, workers: int) -> None:
        """Args:
        requested: whether this worker was asked.
        workers: how many there are; made outside the strategy's scope, since each votes for itself.
        """
        self._requested = requested
        self._mine = tf.Variable(0.0, trainable=False) if workers > 1 else None
        self._before: tf.Tensor | None = None

    def figures(self) -> dict[str, tf.Tensor]:
        """What a training step adds to its figures; called on a replica."""
        if self._mine is None:
            return {}
        return {"stop": tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, self._mine.read_value())}

    def before_step(self) -> None:
        """Casts this worker's vote."""
        if self._mine is not None and self._requested():
            self._mine.assign(1.0)

    def after_step(self, logs: dict[str, Any]) -> bool:
        """Takes the vote out of a step's figures and says whether to stop.

        The vote that counts is that of the step before, which is known without waiting for the device.
        """
        if self._mine is None:
            return self._requested()
        before, self._before = self._before, logs.pop("stop")
        return before is not None and bool(before > 0)

    def leave(self, step: int) -> None:
        """Ends this worker, once the state is saved.

        Raises:
          Stopped: it was asked to stop.
          LostPeer: another worker was; this one can go on as soon as that one is back.
        """
        if self._requested():
            raise Stopped(f"asked to stop; the state is saved at step {step}")
        raise LostPeer(f"another worker was asked to stop; the state is saved at step {step}")


def check_same_job(strategy: tf.distribute.Strategy, description: dict[str, Any], *, workers: int) -> None:
    """Compares what the workers were told to do; all of them call it.

    Raises:
      UserError: they were told different things.
    """
    marks = _gathered(strategy, int(fingerprint(description)[:15], 16))
    strangers = sorted({replica * workers // len(marks) for replica, mark in enumerate(marks) if mark != marks[0]})
    if strangers:
        raise UserError(
            f"worker(s) {', '.join(map(str, strangers))} have other flags or another data set than the chief: "
            "give all workers the same command"
        )


def check_same_step(strategy: tf.distribute.Strategy, step: int) -> None:
    """Compares the step at which the workers begin; all of them call it.

    Raises:
      LostPeer: they have read different states, which another attempt mends.
    """
    steps = _gathered(strategy, step)
    if len(set(steps)) > 1:
        found = ", ".join(map(str, steps))
        raise LostPeer(f"the workers have read the states of different steps ({found}): they must share one --job_dir")


def _gathered(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """The numbers of all replicas, worker after worker."""

    @tf.function
    def gather(mine: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(tf.identity, (mine,)), axis=0)

    return gather(tf.constant([number], tf.int64)).numpy().tolist()
