"""A job directory: whose it is, whether it is finished, and what may be continued there."""

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

_OWN = (
    *("evaluation", "model", "logs", "checkpoints", "backup"),
    *("FAILED.json", "DONE.json", "run.json", "history.csv", "config.json"),
)


@dataclasses.dataclass(frozen=True)
class JobDir:
    """The directory of a job whose configuration has been compared with what is there.

    Attributes:
      path: the directory.
      description: what config.json says: the fields that decide what is learnt, and the data set.
    """

    path: epath.Path
    description: dict[str, Any]

    @property
    def job_id(self) -> str:
        """The launcher's name for the job, from POSTER_JOB_ID; without one, the host and the configuration."""
        return launched_as() or f"{socket.gethostname()}-{self._fingerprint[:12]}"

    @property
    def lock_path(self) -> epath.Path:
        """LOCK.json."""
        return self.path / "LOCK.json"

    @property
    def evaluation(self) -> epath.Path:
        """Where the figures, plots and the report are."""
        return self.path / "evaluation"

    def make(self) -> None:
        """Makes the directory, if it is not there yet.

        Raises:
          UserError: there is a file of that name.
        """
        try:
            files.make_folder(self.path)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"--job_dir={self.path} is a file, or lies in one: name a folder") from None

    def is_finished(self) -> bool:
        """Whether DONE.json stands for as many epochs as are asked for."""
        done = _read(self.path / "DONE.json")
        return done is not None and done.get("epochs") == self.description["epochs"]

    def was_begun_by_this_launch(self) -> bool:
        """Whether a launcher (POSTER_JOB_ID) has started this job before, so that this process is a restart of it."""
        record, launch = _read(self.path / "run.json"), launched_as()
        return launch is not None and record is not None and record["attempts"][0]["launched_as"] == launch

    def check_not_failed(self) -> None:
        """Fails as the job has failed before, if a launcher restarts it; a person may try again.

        Raises:
          UserError: with the same line.
        """
        failed, launch = _read(self.path / "FAILED.json"), launched_as()
        if failed and launch and (failed["config"], failed["launched_as"]) == (self._fingerprint, launch):
            raise UserError(failed["reason"])

    def fail(self, reason: str) -> None:
        """Writes FAILED.json: a restart of the same configuration would end the same way."""
        failed = {"reason": reason, "config": self._fingerprint, "launched_as": launched_as()}
        files.write_json(self.path / "FAILED.json", failed)

    def begin(self) -> None:
        """Writes config.json, and takes DONE.json and FAILED.json away: more is to be done."""
        for name in ("DONE.json", "FAILED.json"):
            files.remove(self.path / name)
        if _read(self.path / "config.json") != self.description:
            files.write_json(self.path / "config.json", self.description)

    def clear_results(self) -> None:
        """Removes model/ and evaluation/, which an attempt may have left half-written, and what other weights gave elsewhere."""
        for path in (self.path / "model", self.evaluation, *_other_evaluations(files.children(self.path))):
            files.remove_folder(path)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes DONE.json, the last write of a job: with it model/ and evaluation/ are real."""
        files.write_json(self.path / "DONE.json", {"epochs": self.description["epochs"]} | summary)

    def move_aside(self) -> None:
        """Moves what the job directory holds to `old-1/`, `old-2/`, … within it."""
        found = self._contents()
        if not found:
            return
        # config.json is moved last: a folder without it belongs to a move that was killed, and the rest goes there too.
        number = 1
        while files.exists(self.path / f"old-{number}" / "config.json"):
            number += 1
        aside = self.path / f"old-{number}"
        for path in found:
            files.move(path, aside / path.name)
        _log.info("what %s held is in %s", self.path, aside)

    def check_resumable(self) -> None:
        """Compares the configuration with that of the job that is there.

        Raises:
          UserError: the directory holds another job, or something that is none, or more epochs than are asked for.
        """
        found = _read(self.path / "config.json")
        if found is None:
            # A job that was refused before it began leaves its reason alone.
            if strangers := [path.name for path in self._contents() if path.name != "FAILED.json"]:
                raise UserError(
                    f"{self.path} has no config.json but holds {', '.join(strangers)}: choose another --job_dir, "
                    "or move that aside with --fresh"
                )
            return
        differences = [
            f"{name}={_shown(found.get(name))} (not {_shown(self.description.get(name))})"
            for name in sorted({*found, *self.description} - {"epochs", *without_effect(self.description)})
            if found.get(name) != self.description.get(name)
        ]
        if differences:
            raise UserError(
                f"{self.path} holds a job with {', '.join(differences)}: choose another --job_dir, or start anew there with --fresh"
            )
        if self.description["epochs"] < found["epochs"]:
            raise UserError(
                f"--epochs={self.description['epochs']} is less than the {found['epochs']} of the job in {self.path}: "
                "start anew there with --fresh"
            )

    def _contents(self) -> list[epath.Path]:
        """What of a job is there, config.json last."""
        found = {path.name: path for path in files.children(self.path)}
        return [*_other_evaluations(found.values()), *(found[name] for name in _OWN if name in found)]

    @property
    def _fingerprint(self) -> str:
        return fingerprint({name: value for name, value in self.description.items() if name != "epochs"})


def describe(config: TrainConfig, dataset: Dataset) -> JobDir:
    """The directory of a job, which need not be there yet.

    Raises:
      UserError: its name is none that TensorFlow can use.
    """
    path = files.from_flag("--job_dir", config.job_dir)
    if not set(str(path)).isdisjoint("*?[]\\"):
        raise UserError(f"--job_dir={path} has one of * ? [ ] \\ in it, which TensorFlow takes for patterns: choose another name")
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
      job_dir: a finished job's directory.
      split: the split's name.
      other_data: the fingerprint of its data set, where that is not the one that the job was trained on.
      output: the folder that the user asks for, if any.

    Raises:
      UserError: the user asks for that of the job's own figures, which hold its thresholds.
    """
    if not output:
        return job_dir / (f"evaluation-{split}-{other_data[:12]}" if other_data else f"evaluation-{split}")
    asked = files.from_flag("--output", output)
    if asked.resolve() == (job_dir / "evaluation").resolve():
        raise UserError(f"--output={output} holds the job's own figures and thresholds: name another folder, or leave it out")
    return asked


def _other_evaluations(children: Iterable[epath.Path]) -> list[epath.Path]:
    """What of a job's directory trainer.evaluate has made, on other splits and data sets."""
    return [path for path in children if path.name.startswith("evaluation-")]


def launched_as() -> str | None:
    """The launcher's name for the job, the same for every restart; None where a person starts it."""
    return os.environ.get("POSTER_JOB_ID")


def _shown(value: Any) -> Any:
    return value["fingerprint"][:12] if isinstance(value, dict) else value


def _read(path: epath.Path) -> dict[str, Any] | None:
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh, or in another --job_dir") from None
