"""Runs trainer.task, reports its phase, and pauses in a phase in which a test wants to strike.

It writes marks to the folder CHAOS_DIR, whose plan.json lists the phases in which to pause, in this order. Only the chief pauses:
it creates `reached-K` and waits for `struck-K`. Nothing else about the job changes.
"""

import contextlib
import json
import os
import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags
from tensorflow.python.checkpoint import checkpoint_management

from trainer.cluster import discovery, strategy
from trainer.evaluation import evaluate
from trainer.evaluation.report import charts
from trainer.model import export
from trainer.process import heartbeat
from trainer.training import checkpoints

START, EPOCH, BACKUP, VALIDATION, EPOCH_END, TRAINING_END, EVALUATION, CHARTS, EXPORT = PHASES = (
    "start-up",
    "epoch",
    "backup",
    "validation",
    "epoch's end",
    "training's end",
    "last evaluation",
    "charts",
    "export",
)

# Steps of a process before it pauses in an epoch, so that it has made a backup.
_STEPS = 5


class _Marks:
    """The marks with which this worker informs the test."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._index = folder, index
        self._phases = [START]
        self._steps = 0
        plan = folder / "plan.json"
        self._plan: list[str] = json.loads(plan.read_text()) if plan.exists() else []
        self._tell("pids", f"{os.getppid()} {os.getpid()}")
        self._tell("phase", START)
        self.event("start")

    def event(self, name: str) -> None:
        """Records the time of an event."""
        with (self._folder / f"events-{self._index}").open("a") as file:
            file.write(f"{time.time():.3f} {name}\n")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Reports that the worker is in a phase for the duration of a `with` block."""
        self._phases.append(name)
        self._tell("phase", name)
        try:
            yield
        finally:
            self._phases.pop()
            self._tell("phase", self._phases[-1])

    def step(self) -> None:
        """Records a training step."""
        if self._steps == 0:
            self._phases[0] = EPOCH
            self._tell("phase", self._phases[-1])
            self.event("step")
        self._steps += 1
        if self._steps == _STEPS:
            self.pause(EPOCH)

    def pause(self, phase: str) -> None:
        """Pauses until the strike, if the next one is planned for this phase."""
        strikes = len(list(self._folder.glob("struck-*")))
        if self._index == 0 and self._plan[strikes : strikes + 1] == [phase]:
            (self._folder / f"reached-{strikes}").touch()
            while not (self._folder / f"struck-{strikes}").exists():
                time.sleep(0.02)

    def is_in(self, phase: str) -> bool:
        """Returns whether the worker is in a phase now."""
        return self._phases[-1] == phase

    def _tell(self, name: str, value: str) -> None:
        partial = self._folder / f".{name}-{self._index}"
        partial.write_text(value)
        partial.replace(self._folder / f"{name}-{self._index}")


def _watch(marks: _Marks) -> None:
    def within(owner: Any, name: str, phase: str | Callable[[Any], str], *, then: Callable[[], None] = lambda: None) -> None:
        original = getattr(owner, name)

        def replaced(*arguments: Any, **options: Any) -> Any:
            with marks.phase(phase if isinstance(phase, str) else phase(arguments[0])):
                result = original(*arguments, **options)
                then()
                return result

        setattr(owner, name, replaced)

    def before(owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def replaced(*arguments: Any, **options: Any) -> Any:
            if marks.is_in(phase):
                marks.pause(phase)
            return original(*arguments, **options)

        setattr(owner, name, replaced)

    # All peers have been seen, and TensorFlow is about to start.
    within(strategy, "create", START)
    before(strategy, "create", START)
    within(checkpoints.TrainingState, "back_up", BACKUP)
    # The backup's data exist, but the pointer to them does not.
    before(checkpoint_management, "update_checkpoint_state_internal", BACKUP)
    within(evaluate, "epoch_metrics", VALIDATION)
    # At the end of training, the other workers have finished their steps.
    ends = {True: TRAINING_END, False: EPOCH_END}
    within(checkpoints.TrainingState, "save_epoch", lambda training: ends[len(training.progress.history) == flags.FLAGS.epochs])
    for end in ends.values():
        before(checkpoint_management, "update_checkpoint_state_internal", end)
    within(evaluate, "evaluate_split", EVALUATION)
    within(charts, "pr_curves", CHARTS, then=lambda: marks.pause(CHARTS))
    # All files of the model exist, but DONE.json does not.
    within(export, "export", EXPORT)
    within(tf.saved_model, "save", EXPORT, then=lambda: marks.pause(EXPORT))

    beat = heartbeat.beat

    def watched_beat(sign: bytes = heartbeat.OTHER) -> None:
        beat(sign)
        if sign == heartbeat.STEP:
            marks.step()
        for phase in (VALIDATION, EVALUATION):  # Between two batches.
            if marks.is_in(phase):
                marks.pause(phase)

    heartbeat.beat = watched_beat


if __name__ == "__main__":
    _watch(_Marks(Path(os.environ["CHAOS_DIR"]), discovery.discover().index))
    runpy.run_module("trainer.task", run_name="__main__", alter_sys=True)
