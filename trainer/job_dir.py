"""A job directory: whose it is, whether it is finished, and what may be continued there."""

import dataclasses
import logging
import math
import os
import socket
from typing import Any

from etils import epath

from trainer import files
from trainer.config import TrainConfig, fingerprint
from trainer.data.shards import Dataset
from trainer.errors import UserError

_log = logging.getLogger(__name__)

# A job may be continued with other values of these.
_LENGTHS = ("epochs", "max_steps")

# In the order in which a job makes them.
_OWN = (
    "config.json",
    "history.csv",
    "run.json",
    "DONE.json",
    "FAILED.json",
    "backup",
    "checkpoints",
    "logs",
    "model",
    "evaluation",
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
        return os.environ.get("POSTER_JOB_ID") or f"{socket.gethostname()}-{self._fingerprint[:12]}"

    @property
    def lock_path(self) -> epath.Path:
        """LOCK.json."""
        return self.path / "LOCK.json"

    @property
    def evaluation(self) -> epath.Path:
        """Where the figures, plots and the report are."""
        return self.path / "evaluation"

    def is_finished(self) -> bool:
        """Whether DONE.json stands for as many epochs and steps as are asked for."""
        done = _read(self.path / "DONE.json")
        return done is not None and all(done[name] == self.description[name] for name in _LENGTHS)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes DONE.json, the last write of a job: with it model/ and evaluation/ are real."""
        files.write_json(self.path / "DONE.json", {name: self.description[name] for name in _LENGTHS} | summary)

    def fail(self, reason: str) -> None:
        """Writes FAILED.json: a restart of the same configuration would end the same way."""
        files.write_json(self.path / "FAILED.json", {"reason": reason, "config": self._fingerprint})

    def reopen(self) -> None:
        """Takes DONE.json and FAILED.json away, and what they stood for: more is to be done."""
        for name in ("DONE.json", "FAILED.json"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("model", "evaluation"):
            if (self.path / name).exists():
                (self.path / name).rmtree()

    def move_aside(self) -> None:
        """Moves what the job directory holds to `old-1/`, `old-2/`, … within it."""
        found = [name for name in _OWN if (self.path / name).exists()]
        if not found:
            return
        number = 1
        while (self.path / f"old-{number}").exists():
            number += 1
        aside = self.path / f"old-{number}"
        aside.mkdir()
        # config.json last: until it has gone the directory is still the old job's, and the same command goes on moving.
        for name in reversed(found):
            (self.path / name).rename(aside / name)
        _log.info("what %s held is in %s", self.path, aside)

    def check_resumable(self) -> None:
        """Compares the configuration with that of the job that is there, and writes config.json where there is none.

        Raises:
          UserError: the directory holds another job, or something that is none.
        """
        found = _read(self.path / "config.json")
        if found is None:
            strangers = [name for name in _OWN if (self.path / name).exists()]
            if strangers:
                raise UserError(
                    f"{self.path} has no config.json but holds {', '.join(strangers)}: choose another "
                    "--job_dir, or move that aside with --fresh"
                )
        else:
            differences = [
                f"{name}={self._shown(found, name)} (not {self._shown(self.description, name)})"
                for name in sorted({*found, *self.description} - {*_LENGTHS})
                if found.get(name) != self.description.get(name)
            ]
            if differences:
                raise UserError(
                    f"{self.path} holds a job with {', '.join(differences)}: choose another --job_dir, "
                    "or start anew there with --fresh"
                )
            self._check_not_shorter(found)
        if found != self.description:
            files.write_json(self.path / "config.json", self.description)

    def _check_not_shorter(self, found: dict[str, Any]) -> None:
        for name in _LENGTHS:
            # No limit to the steps is 0.
            before, asked = found[name] or math.inf, self.description[name] or math.inf
            if asked < before:
                raise UserError(
                    f"--{name}={asked} is less than the {before} of the job in {self.path}: start anew there with --fresh"
                )

    @property
    def _fingerprint(self) -> str:
        return fingerprint({name: value for name, value in self.description.items() if name not in _LENGTHS})

    @staticmethod
    def _shown(description: dict[str, Any], name: str) -> Any:
        value = description.get(name)
        return value["fingerprint"][:12] if name == "data" and value else value


def describe(config: TrainConfig, dataset: Dataset) -> JobDir:
    """The directory of a job, made if need be.

    Raises:
      UserError: there is a file of that name.
    """
    path = epath.Path(config.job_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--job_dir={path} is a file, or lies in one: name a folder") from None
    train = dataset.split("train")
    data = {
        "fingerprint": dataset.fingerprint,
        "genres": list(dataset.genres),
        "image": {"height": dataset.height, "width": dataset.width},
        "train": {"examples": train.examples, "genre_counts": dict(train.genre_counts)},
    }
    lengths = {name: getattr(config, name) for name in _LENGTHS}
    return JobDir(path, config.result_fields() | lengths | {"data": data})


def _read(path: epath.Path) -> dict[str, Any] | None:
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh") from None
