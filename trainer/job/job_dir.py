"""A job directory: the job it belongs to, whether that is finished, and whether it may be resumed."""

import dataclasses
import logging
import os
import socket
from collections.abc import Iterable
from typing import Any

from etils import epath

from trainer.config import TrainConfig, fingerprint, without_effect
from trainer.dataset.manifest import Dataset
from trainer.errors import UserError
from trainer.storage import files

_log = logging.getLogger(__name__)

_CONTENTS = (
    *("evaluation", "model", "logs", "checkpoints", "backup"),
    *("FAILED.json", "DONE.json", "run.json", "history.csv", "config.json"),
)


@dataclasses.dataclass(frozen=True)
class JobDir:
    """The directory of a job.

    Attributes:
      path: the path of the directory.
      description: the content of config.json: the fields that decide what the network learns, and the data set.
    """

    path: epath.Path
    description: dict[str, Any]

    @property
    def job_id(self) -> str:
        """The launcher's name for the job (POSTER_JOB_ID); without a launcher, the host's name and a hash of the configuration."""
        return launched_as() or f"{socket.gethostname()}-{self._fingerprint[:12]}"

    @property
    def lock_path(self) -> epath.Path:
        """The path of LOCK.json."""
        return self.path / "LOCK.json"

    @property
    def evaluation(self) -> epath.Path:
        """The folder with the metrics, charts and report."""
        return self.path / "evaluation"

    def make(self) -> None:
        """Creates the directory if it does not exist.

        Raises:
          UserError: a file has this name, or the name of one of its parents.
        """
        try:
            files.make_folder(self.path)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"--job_dir={self.path} is a file, or is inside a file: name a folder") from None

    def is_finished(self) -> bool:
        """Returns whether DONE.json exists and names as many epochs as this job has."""
        done = _read(self.path / "DONE.json")
        return done is not None and done.get("epochs") == self.description["epochs"]

    def was_begun_by_this_launch(self) -> bool:
        """Returns whether the same launch (POSTER_JOB_ID) has started this job before, so that this process is a restart."""
        record, launch = _read(self.path / "run.json"), launched_as()
        return launch is not None and record is not None and record["attempts"][0]["launched_as"] == launch

    def check_not_failed(self) -> None:
        """Refuses a restart by the launcher of a job that failed; a person may try again.

        Raises:
          UserError: the job failed before in the same launch and configuration; its text is the first failure's.
        """
        failed, launch = _read(self.path / "FAILED.json"), launched_as()
        if failed and launch and (failed["config"], failed["launched_as"]) == (self._fingerprint, launch):
            raise UserError(failed["reason"])

    def fail(self, reason: str) -> None:
        """Writes FAILED.json: a restart with the same configuration would end the same way.

        Args:
          reason: the line of the `UserError` that ended the job.
        """
        failed = {"reason": reason, "config": self._fingerprint, "launched_as": launched_as()}
        files.write_json(self.path / "FAILED.json", failed)

    def begin(self) -> None:
        """Writes config.json, and removes DONE.json and FAILED.json: the job has work to do."""
        for name in ("DONE.json", "FAILED.json"):
            files.remove(self.path / name)
        if _read(self.path / "config.json") != self.description:
            files.write_json(self.path / "config.json", self.description)

    def clear_results(self) -> None:
        """Removes model/ and evaluation/, which may be incomplete, and the evaluations of earlier weights by trainer.evaluate."""
        for path in (self.path / "model", self.evaluation, *_other_evaluations(files.children(self.path))):
            files.remove_folder(path)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes DONE.json, the last write of a job: from then on model/ and evaluation/ are valid.

        Args:
          summary: further content of DONE.json.
        """
        files.write_json(self.path / "DONE.json", {"epochs": self.description["epochs"]} | summary)

    def move_aside(self) -> None:
        """Moves the files of an earlier job to the first free folder of `old-1/`, `old-2/`, … in the directory."""
        found = self._contents()
        if not found:
            return
        # config.json is moved last. A folder without it belongs to a move that was killed; the remaining files go there too.
        number = 1
        while files.exists(self.path / f"old-{number}" / "config.json"):
            number += 1
        aside = self.path / f"old-{number}"
        for path in found:
            files.move(path, aside / path.name)
        _log.info("moved the earlier job in %s to %s", self.path, aside)

    def check_resumable(self) -> None:
        """Checks that this job may go on in the directory: it is empty, or its config.json fits.

        Raises:
          UserError: the directory holds a job with other options or with more epochs, or files that are not a job's.
        """
        found = _read(self.path / "config.json")
        if found is None:
            # A job that was refused before it began leaves only FAILED.json.
            if strangers := [path.name for path in self._contents() if path.name != "FAILED.json"]:
                raise UserError(
                    f"--job_dir={self.path} has no config.json but holds {', '.join(strangers)}: choose another --job_dir, "
                    "or move these files aside with --fresh"
                )
            return
        differences = [
            f"{name}={_shown(found.get(name))} (not {_shown(self.description.get(name))})"
            for name in sorted({*found, *self.description} - {"epochs", *without_effect(self.description)})
            if found.get(name) != self.description.get(name)
        ]
        if differences:
            raise UserError(
                f"--job_dir={self.path} holds a job with {', '.join(differences)}: choose another --job_dir, or "
                "start anew with --fresh"
            )
        if self.description["epochs"] < found["epochs"]:
            raise UserError(
                f"--epochs={self.description['epochs']} is less than the {found['epochs']} epochs of the job in {self.path}: raise "
                "--epochs, or start anew with --fresh"
            )

    def _contents(self) -> list[epath.Path]:
        """The files and folders of a job that exist, config.json last."""
        found = {path.name: path for path in files.children(self.path)}
        return [*_other_evaluations(found.values()), *(found[name] for name in _CONTENTS if name in found)]

    @property
    def _fingerprint(self) -> str:
        return fingerprint({name: value for name, value in self.description.items() if name != "epochs"})


def describe(config: TrainConfig, dataset: Dataset) -> JobDir:
    """Returns the directory of a job; it need not exist yet.

    Args:
      config: the job's flags.
      dataset: the data set that the job is trained on.

    Raises:
      UserError: TensorFlow cannot use the directory's name, or the training split is empty.
    """
    path = files.from_flag("--job_dir", config.job_dir)
    if not set(str(path)).isdisjoint("*?[]\\"):
        raise UserError(f"--job_dir={path} contains one of * ? [ ] \\, which TensorFlow takes for a pattern: choose another name")
    train = dataset.split("train")
    data = {
        "fingerprint": dataset.fingerprint,
        "genres": list(dataset.genres),
        "image": {"height": dataset.height, "width": dataset.width},
        "train": {"examples": train.examples, "genre_counts": dict(train.genre_counts)},
    }
    return JobDir(path, config.result_fields() | {"epochs": config.epochs, "data": data})


def evaluation_folder(job_dir: epath.Path, split: str, *, other_data: str | None, output: str | None) -> epath.Path:
    """Returns the folder that trainer.evaluate writes.

    Args:
      job_dir: the directory of a finished job.
      split: the name of the split.
      other_data: the fingerprint of the data set; None for the data set that the job was trained on.
      output: the folder that the user chose; None or empty for the default.

    Raises:
      UserError: the user chose the folder of the job's own metrics and thresholds.
    """
    if not output:
        return job_dir / (f"evaluation-{split}-{other_data[:12]}" if other_data else f"evaluation-{split}")
    chosen = files.from_flag("--output", output)
    if chosen.resolve() == (job_dir / "evaluation").resolve():
        raise UserError(f"--output={output} holds the job's own metrics and thresholds: name another folder, or leave --output out")
    return chosen


def _other_evaluations(children: Iterable[epath.Path]) -> list[epath.Path]:
    """The folders that trainer.evaluate wrote, for other splits and data sets."""
    return [path for path in children if path.name.startswith("evaluation-")]


def launched_as() -> str | None:
    """Returns the launcher's name for the job, the same for every restart; None if a person started it."""
    return os.environ.get("POSTER_JOB_ID")


def _shown(value: Any) -> Any:
    return value["fingerprint"][:12] if isinstance(value, dict) else value


def _read(path: epath.Path) -> dict[str, Any] | None:
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh, or in another --job_dir") from None
