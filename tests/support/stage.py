"""A run of a job whose parts only note that they were called: its phases, without what computes."""

import json
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.cluster import rendezvous
from trainer.cluster import strategy as strategies
from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.dataset.manifest import Dataset
from trainer.evaluation.report import text
from trainer.job import job_dir
from trainer.job.job_dir import JobDir
from trainer.model import pretrained
from trainer.process import entry, heartbeat
from trainer.training import checkpoints, consensus, loop, run, standby
from trainer.training.checkpoints import Progress

ALONE = Cluster((), 0, "a test")
CHIEF, SECOND = (Cluster(("a:1", "b:1"), index, "a test") for index in (0, 1))
LAST_STEP = 2 * 5
RESULTS = {"metrics": "of the test split"}


class Restarted(BaseException):
    """The process has become another one."""


class Stage:
    """A job whose parts only note that they were called, in `calls`."""

    def __init__(self, dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dataset, self.folder = dataset, folder
        self.calls: list[str] = []
        self.options: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.step = 0
        self.replicas = 1
        self.patch = monkeypatch
        self.stop: Any = types.SimpleNamespace(listen=lambda: self.calls.append("listen"))
        for name in ("POSTER_JOB_ID", "POSTER_GUARD_FD"):
            monkeypatch.delenv(name, raising=False)
        self._replace()

    def _replace(self) -> None:
        self.note(rendezvous, "wait")
        self.note(entry, "leave_at_once")
        self.note(consensus, "check_same_job")
        self.note(standby, "wait_for_chief")
        self.note(pretrained, "load", returns=["weights"])
        self.note(os, "execv", raises=Restarted)
        self.note(loop, "train", does=self.end_training)
        self.note(strategies, "create", does=lambda *arguments: types.SimpleNamespace(num_replicas_in_sync=self.replicas))
        self.note(checkpoints, "delete_backups")
        self.patch.setattr(heartbeat, "beat", lambda sign=heartbeat.OTHER: self.calls.append(f"beat {sign.decode()}"))
        self.patch.setattr(checkpoints, "read_progress", lambda folder: self.progress)
        self.evaluate = run._evaluate_and_export
        self.note(run, "_evaluate_and_export", returns=RESULTS)
        self.patch.setattr(text, "verdicts", lambda results: self.verdicts(results))
        self.patch.setattr(text, "table", lambda results, *, with_verdicts: f"table of {results}, verdicts: {with_verdicts}")

    def note(
        self,
        module: Any,
        name: str,
        *,
        does: Callable[..., Any] = lambda *arguments: None,
        returns: Any = None,
        raises: BaseException | type[BaseException] | None = None,
    ) -> None:
        """Replaces a function by one that notes its call, then does or returns or raises what is given."""

        def replacement(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            self.options[name] = (arguments, options)
            if raises is not None:
                raise raises
            return returns if returns is not None else does(*arguments)

        self.patch.setattr(module, name, replacement)

    def end_training(self, *arguments: Any) -> None:
        """Takes the place of `loop.train`."""
        self.step = LAST_STEP

    def verdicts(self, results: Any) -> list[Any]:
        """Returns a clear verdict and one that is not."""
        assert results == RESULTS
        return [
            types.SimpleNamespace(clear=True, sentence="it beats chance"),
            types.SimpleNamespace(clear=False, sentence="or not"),
        ]

    @property
    def progress(self) -> Progress:
        """The last state's progress."""
        progress = Progress()
        progress.step = self.step
        return progress

    def job(self, **options: Any) -> TrainConfig:
        """Returns the flags."""
        defaults: dict[str, Any] = {"model": "cnn", "batch_size": 8, "epochs": 2}
        return TrainConfig(data_dir="d", job_dir=str(self.folder), **defaults | options)

    def directory(self, **options: Any) -> JobDir:
        """Returns the job directory, which exists."""
        directory = job_dir.describe(self.job(**options), self.dataset)
        directory.make()
        return directory

    def run(self, cluster: Cluster = ALONE, **options: Any) -> list[str]:
        """Runs a worker, and returns what it called."""
        self.calls.clear()
        start = run.lead if cluster.is_chief else run.assist
        start(self.job(**options), self.dataset, self.directory(**options), cluster, self.stop)
        return self.calls

    def names(self) -> set[str]:
        """Returns what lies in the job directory."""
        return {path.name for path in self.folder.iterdir()}

    def json(self, name: str) -> Any:
        """Reads a file of the job directory."""
        return json.loads((self.folder / name).read_text())
