"""What the workers of a job agree on, so that all of them do the same after the same step."""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import fingerprint
from trainer.errors import LostPeer, Stopped, UserError
from trainer.training.checkpoints import Progress


class StopVote:
    """Whether to stop: as soon as any worker was asked to, and after the same step on all of them.

    A worker that left by itself would take with it what the others need to save the state. So the votes are one more figure of each
    training step, and Keras adds the figures of all replicas up.
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
        """What a training step of a replica adds to its figures."""
        if self._mine is None:
            return {}
        return {"stop": self._mine.read_value()}

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
    if strangers := _strangers(strategy, _mark(description), workers=workers):
        raise UserError(
            f"worker(s) {strangers} have other flags or another data set than the chief: give all workers the same command"
        )


def check_same_state(strategy: tf.distribute.Strategy, progress: Progress) -> None:
    """Compares the states from which the workers begin; all of them call it.

    Raises:
      LostPeer: they have read different states, which another attempt mends.
    """
    # Two states of one step may differ in whether the epoch's end is behind them.
    if len(set(_gathered(strategy, _mark(progress.serialize())))) > 1:
        steps = ", ".join(map(str, _gathered(strategy, progress.step)))
        raise LostPeer(f"the workers have read different states (of steps {steps}): they must share one --job_dir")


def check_same_weights(strategy: tf.distribute.Strategy, weights: list[np.ndarray], *, workers: int) -> None:
    """Compares the weights of others with which the workers begin; all of them call it.

    Raises:
      UserError: they have read different ones.
    """
    digest = hashlib.sha256(b"".join(array.tobytes() for array in weights)).hexdigest()
    if strangers := _strangers(strategy, _mark(digest), workers=workers):
        raise UserError(f"worker(s) {strangers} have read other weights than the chief: give all workers the same --weights")


def _strangers(strategy: tf.distribute.Strategy, mark: int, *, workers: int) -> str:
    """The workers that have another mark than the chief."""
    marks = _gathered(strategy, mark)
    if len(set(marks)) > 1:
        # Who leaves at once may cut off a worker to which the last of the marks is still under way. When this second round begins
        # everybody has them, so that what becomes of it does not matter.
        with contextlib.suppress(tf.errors.OpError):
            _gathered(strategy, mark)
    found = {replica * workers // len(marks) for replica, other in enumerate(marks) if other != marks[0]}
    return ", ".join(map(str, sorted(found)))


def _mark(description: Any) -> int:
    """A number below 2^60 that tells descriptions apart."""
    return int(fingerprint(description)[:15], 16)


def _gathered(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """The numbers of all replicas, worker after worker."""

    @tf.function
    def gather(mine: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(tf.identity, (mine,)), axis=0)

    return gather(tf.constant([number], tf.int64)).numpy().tolist()
