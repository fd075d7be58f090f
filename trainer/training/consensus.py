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
    """The workers' vote on whether to stop: they stop once one of them is asked to, all after the same step.

    A worker that left alone would take away what the others need to save the state. So the votes travel as one more metric of
    each training step, which Keras sums over all replicas:

    1. `before_step` sets this worker's vote, 0 or 1;
    2. the step reports it among its metrics (`metrics`, which `Network.train_step` calls), and Keras sums them;
    3. `after_step` takes the sum out of the metrics, and returns whether the sum of the step before is above 0.
    """

    def __init__(self, requested: Callable[[], bool], *, workers: int) -> None:
        """Makes the vote, outside the strategy's scope, because each worker has its own.

        Args:
          requested: returns whether this worker was asked to stop.
          workers: the number of workers.
        """
        self._requested = requested
        self._mine = tf.Variable(0.0, trainable=False) if workers > 1 else None
        self._before: tf.Tensor | None = None

    def metrics(self) -> dict[str, tf.Tensor]:
        """Returns what a replica's training step adds to its metrics: the vote, a float32 scalar; nothing for one worker."""
        if self._mine is None:
            return {}
        return {"stop": self._mine.read_value()}

    def before_step(self) -> None:
        """Casts this worker's vote."""
        if self._mine is not None and self._requested():
            self._mine.assign(1.0)

    def after_step(self, logs: dict[str, Any]) -> bool:
        """Takes the vote out of a step's metrics, and returns whether to stop.

        The vote that counts is the one of the step before, which is known without waiting for the device.
        """
        if self._mine is None:
            return self._requested()
        before, self._before = self._before, logs.pop("stop")
        return before is not None and bool(before > 0)

    def leave(self, step: int) -> None:
        """Ends this worker after the state was saved.

        Raises:
          Stopped: this worker was asked to stop.
          LostPeer: another worker was asked to stop; this one goes on as soon as the other is back.
        """
        if self._requested():
            raise Stopped(f"asked to stop; the state is saved at step {step}")
        raise LostPeer(f"another worker was asked to stop; the state is saved at step {step}")


def check_same_job(strategy: tf.distribute.Strategy, description: dict[str, Any], *, workers: int) -> None:
    """Compares the flags and data sets of the workers; all workers call it.

    Raises:
      UserError: a worker has other flags or another data set than the chief.
    """
    if different := _different_workers(strategy, _mark(description), workers=workers):
        raise UserError(
            f"worker(s) {different} have other flags or another data set than the chief: give all workers the same command"
        )


def check_same_state(strategy: tf.distribute.Strategy, progress: Progress) -> None:
    """Compares the states that the workers start from; all workers call it.

    Raises:
      LostPeer: the workers have read different states; at the next attempt they read the same one.
    """
    # Two states of one step may still differ: one may have the epoch's end behind it.
    if len(set(_gathered(strategy, _mark(progress.serialize())))) > 1:
        steps = ", ".join(map(str, _gathered(strategy, progress.step)))
        raise LostPeer(f"the workers have read different states (of steps {steps}): give all workers one shared --job_dir")


def check_same_weights(strategy: tf.distribute.Strategy, weights: list[np.ndarray], *, workers: int) -> None:
    """Compares the pretrained weights that the workers start with; all workers call it.

    Args:
      strategy: the strategy of the workers.
      weights: the arrays that this worker has read, in the backbone's order.
      workers: the number of workers.

    Raises:
      UserError: a worker has read other weights than the chief.
    """
    digest = hashlib.sha256(b"".join(array.tobytes() for array in weights)).hexdigest()
    if different := _different_workers(strategy, _mark(digest), workers=workers):
        raise UserError(f"worker(s) {different} have read other weights than the chief: give all workers the same --weights")


def _different_workers(strategy: tf.distribute.Strategy, mark: int, *, workers: int) -> str:
    """Returns the indices of the workers whose mark is not the chief's, joined by commas; "" for none."""
    marks = _gathered(strategy, mark)
    if len(set(marks)) > 1:
        # A worker that leaves at once may cut off another one that still waits for the last mark. When this second round begins
        # all workers have the marks, so its own outcome does not matter.
        with contextlib.suppress(tf.errors.OpError):
            _gathered(strategy, mark)
    found = {replica * workers // len(marks) for replica, other in enumerate(marks) if other != marks[0]}
    return ", ".join(map(str, sorted(found)))


def _mark(description: Any) -> int:
    """Returns a number below 2^60 that differs for different descriptions."""
    return int(fingerprint(description)[:15], 16)


def _gathered(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """Returns the numbers of all replicas, worker after worker."""

    @tf.function
    def gather(mine: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(tf.identity, (mine,)), axis=0)

    return gather(tf.constant([number], tf.int64)).numpy().tolist()
