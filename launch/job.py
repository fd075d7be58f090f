"""The description of a job to launch: what is the same wherever it runs."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from trainer import config
from trainer.config import TrainConfig
from trainer.errors import UserError

# What launchers say to a worker; a user's value would tear the cluster apart or give its lock to another job.
OWN_VARIABLES = (
    "TF_CONFIG",
    "JOB_COMPLETION_INDEX",
    "POSTER_WORKERS",
    "POSTER_SERVICE",
    "POSTER_PORT",
    "POSTER_JOB_ID",
    "POSTER_GUARD_FD",
    "POSTER_GUARD_PID",
)

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A job, checked as a whole.

    Attributes:
      arguments: the flags of trainer.task.
      name: what the job is called; each launch of it adds a suffix of its own.
      workers: how many processes train together.
      restarts: how often each worker may crash and be started again; ends that are not its fault are not counted.
      env: environment variables of every worker.
      time_limit: seconds after which the job is stopped; None: never.
      training: the job as trainer.task will read it.
    """

    arguments: tuple[str, ...]
    name: str = "poster"
    workers: int = 1
    restarts: int = 3
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    time_limit: float | None = None
    training: TrainConfig = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Raises UserError naming the field, its value and the remedy."""
        if not _NAME.fullmatch(self.name):
            raise UserError(f"--name={self.name} must be up to 40 lower-case letters, digits and '-', and begin with a letter")
        if self.workers < 1:
            raise UserError(f"--workers={self.workers} must be at least 1")
        if self.restarts < 0:
            raise UserError(f"--restarts={self.restarts} must be at least 0")
        if self.time_limit is not None and not (self.time_limit > 0 and math.isfinite(self.time_limit)):
            raise UserError(f"--time_limit={self.time_limit:g} must be a number of seconds above 0; leave it out for none")
        for key in self.env:
            if not _VARIABLE.fullmatch(key):
                raise UserError(f"--env={key}=… names no variable: use letters, digits and '_'")
            if key in OWN_VARIABLES:
                raise UserError(f"--env={key}=… is not yours to set: the launcher does; leave it out")
        object.__setattr__(self, "training", parse_training(self.arguments))
        if self.workers > 1 and self.training.strategy not in ("auto", "multi_worker"):
            raise UserError(
                f"--strategy={self.training.strategy} is for one worker, not --workers={self.workers}: "
                "use --strategy=auto, or one worker"
            )


def parse_training(arguments: Sequence[str]) -> TrainConfig:
    """The flags of trainer.task as it will read them.

    Raises:
      UserError: one of them is no flag of trainer.task, has a wrong value or is missing.
    """
    values = flags.FlagValues()
    config.define_flags(values)
    try:
        rest = values(["trainer.task", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"after --: {error} (python -m trainer.task --help lists the flags)") from None
    if rest:
        raise UserError(f"after --: {rest[0]!r} is no flag of trainer.task: options are written --name=value")
    try:
        return config.from_flags(values)
    except UserError as error:
        raise UserError(f"after --: {error}") from None


def parse_env(settings: Iterable[str]) -> dict[str, str]:
    """Variables from `K=V` settings; the last of several for one variable counts.

    Raises:
      UserError: a setting has no `=`.
    """
    variables = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--env={setting} has no value: write --env={setting}=VALUE")
        variables[key] = value
    return variables
