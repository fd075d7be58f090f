"""The description of a job to launch, the same for all targets."""

import dataclasses
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from launch import accelerators
from launch.accelerators import Accelerator
from trainer import config
from trainer.config import TrainConfig
from trainer.errors import UserError

# Set by the launcher in each worker; a user's value would break the cluster or give the job's lock to another job.
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

# A variable with such a name may hold a secret.
SECRET = re.compile("TOKEN|SECRET|PASS|PWD|KEY|CREDENTIAL|AUTH|DSN|PRIVATE|URL", re.IGNORECASE)

# The labels by which the launcher finds its jobs again.
OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance")

GUARD_MARGIN = 5.0
"""Seconds beyond --grace_period that a guard has to kill its worker and exit, before the guard is killed itself."""

# Limits on --workers and --restarts, and on --time_limit in seconds: more than anyone needs, less than any API's own limit.
_MAX_COUNT, _MAX_TIME_LIMIT = 100_000, 366 * 86400.0

_MAX_TEXT_BYTES = 100_000  # Linux accepts 128 KiB for one argument or variable.

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_CPU = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?|[0-9]{1,9}m")
_MEMORY = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?(M|G|T|Mi|Gi|Ti)")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TENSORBOARD = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/tensorboards/[0-9]+")
_NETWORK = re.compile(r"projects/[0-9]+/global/networks/[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where a target keeps its jobs; each target uses the fields that apply to it.

    Attributes:
      namespace: the Kubernetes namespace; None: the current context's.
      project: the Google Cloud project; None: the credentials' own.
      region: the Google Cloud region.
    """

    namespace: str | None = None
    project: str | None = None
    region: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The description of a job to launch; it is validated when it is created.

    Each target uses the fields that apply to it and ignores the others, so that one description serves all targets.

    Attributes:
      arguments: the flags of trainer.task.
      name: the job's name; each launch appends its own suffix.
      image: the container image.
      workers: the number of processes that train together.
      accelerator: the accelerator of each worker, as TYPE or TYPE:COUNT; None: CPUs only.
      cpu: the cores of each worker, in Kubernetes' notation; None: the target's default.
      memory: the memory of each worker, in Kubernetes' notation; None: the target's default.
      env: environment variables of every worker.
      labels: labels of the job and its workers.
      spot: whether to use Spot VMs, which can be preempted.
      restarts: how often each worker may crash and be restarted; a lost peer or a preemption does not count.
      time_limit: seconds after which the job is stopped; None: the target's default.
      service_account: the service account that the workers run as.
      namespace: the Kubernetes namespace; None: the current context's.
      project: the Google Cloud project; None: the credentials' own.
      region: the Google Cloud region.
      tensorboard: the Vertex AI TensorBoard instance that shows the job's logs; None: no instance.
      network: the VPC that Vertex AI peers the workers with; None: no VPC.
      jobset: whether to create a JobSet on Kubernetes, which restarts all workers when one fails.
      training: the flags in `arguments`, parsed as trainer.task parses them.
      device: the parsed `accelerator`.
    """

    arguments: tuple[str, ...]
    name: str = "poster"
    image: str | None = None
    workers: int = 1
    accelerator: str | None = None
    cpu: str | None = None
    memory: str | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spot: bool = False
    restarts: int = 3
    time_limit: float | None = None
    service_account: str | None = None
    namespace: str | None = None
    project: str | None = None
    region: str | None = None
    tensorboard: str | None = None
    network: str | None = None
    jobset: bool = False
    training: TrainConfig = dataclasses.field(init=False)
    device: Accelerator | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Validates the fields.

        Raises:
          UserError: a field is invalid; the message names the field, its value and the remedy.
        """
        if not _NAME.fullmatch(self.name):
            raise UserError(
                "--name must be up to 40 lower-case letters, digits and '-', begin with a letter and not end with '-', "
                f"got {self.name!r}"
            )
        if not 1 <= self.workers <= _MAX_COUNT:
            raise UserError(f"--workers must be at least 1 and at most {_MAX_COUNT}, got {self.workers}")
        if not 0 <= self.restarts <= _MAX_COUNT:
            raise UserError(f"--restarts must be at least 0 and at most {_MAX_COUNT}, got {self.restarts}")
        if self.time_limit is not None and not 0 < self.time_limit <= _MAX_TIME_LIMIT:
            raise UserError(
                f"--time_limit must be above 0 and at most {_MAX_TIME_LIMIT:.0f} seconds (a year), got {self.time_limit:g}"
            )
        self._check_texts()
        self._check_resources()
        self._check_names()
        object.__setattr__(self, "training", parse_training(self.arguments))
        object.__setattr__(self, "device", None if self.accelerator is None else accelerators.parse(self.accelerator))
        self._check_strategy()

    def check_image(self) -> None:
        """Checks that the job has a container image, which workers on other machines need.

        Raises:
          UserError: the job has no image.
        """
        if self.image is None:
            raise UserError(
                "--image is missing: name the container image, such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/poster-trainer"
            )

    def new_name(self) -> str:
        """Returns a name for one launch of the job; all its workers and their restarts use the same."""
        return f"{self.name}-{secrets.token_hex(4)}"

    def _check_texts(self) -> None:
        texts = {f"--env={key}=…": value for key, value in self.env.items()} | {
            f"after --: {text!r}": text for text in self.arguments
        }
        for name, text in texts.items():
            if "\0" in text or not _is_unicode(text):
                raise UserError(f"{name} is not valid text: write it as UTF-8, without zero bytes")
            if len(text.encode()) > _MAX_TEXT_BYTES:
                raise UserError(
                    f"{name[:60]} has more than the {_MAX_TEXT_BYTES} bytes that one argument or variable may have: "
                    "put it into a file"
                )

    def _check_resources(self) -> None:
        if self.cpu is not None and not (_CPU.fullmatch(self.cpu) and float(self.cpu.removesuffix("m"))):
            raise UserError(f"--cpu must be a number of cores above 0, such as 4 or 500m, got {self.cpu!r}")
        if self.memory is not None and not (_MEMORY.fullmatch(self.memory) and float(self.memory.rstrip("MGTi"))):
            raise UserError(f"--memory must be an amount above 0 with its unit, such as 16Gi, got {self.memory!r}")

    def _check_names(self) -> None:
        for name in ("image", "service_account", "project", "region"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[!-~]+", value):
                raise UserError(
                    f"--{name}={value} is empty or contains spaces or non-ASCII characters: correct it, or leave it out"
                )
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise UserError(f"--namespace must be up to 63 lower-case letters, digits and '-', got {self.namespace!r}")
        if self.tensorboard is not None and not _TENSORBOARD.fullmatch(self.tensorboard):
            raise UserError(
                f"--tensorboard must be projects/PROJECT/locations/REGION/tensorboards/NUMBER, got {self.tensorboard!r}"
            )
        if self.network is not None and not _NETWORK.fullmatch(self.network):
            raise UserError(
                "--network must be projects/NUMBER/global/networks/NAME, with the project number that "
                f"`gcloud projects describe PROJECT` shows, got {self.network!r}"
            )
        for key in self.env:
            if not _VARIABLE.fullmatch(key):
                raise UserError(f"--env={key}=… is not a valid variable name: use letters, digits and '_', and no digit first")
            if key in OWN_VARIABLES:
                raise UserError(f"--env={key}=… is set by the launcher: leave it out")
        for key, value in self.labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise UserError(
                    f"--label={key}={value} is not a valid label: use up to 63 letters, digits, '-', '_' and '.' for key and "
                    "value, with a letter or digit at both ends; the key may have a prefix such as example.com/"
                )
            if key in OWN_LABELS:
                raise UserError(f"--label={key}=… is set by the launcher: leave it out")

    def _check_strategy(self) -> None:
        strategy = self.training.strategy
        if self.workers > 1 and strategy not in ("auto", "multi_worker"):
            raise UserError(
                f"--strategy={strategy} supports one worker, not --workers={self.workers}: use --strategy=auto, or --workers=1"
            )
        if self.workers > 1 and self.training.run_eagerly:
            raise UserError(
                f"--run_eagerly supports one worker, not --workers={self.workers}, because TensorFlow's workers cannot exchange "
                "gradients eagerly: leave it out, or use --workers=1"
            )
        if self.workers == 1 and strategy == "multi_worker":
            raise UserError("--strategy=multi_worker needs at least two workers: use --workers=2 or more, or --strategy=auto")
        if self.device and self.device.is_tpu and self.workers > 1:
            raise UserError(
                f"--accelerator={self.accelerator} supports one worker, not --workers={self.workers}, because all its chips are on "
                "one host: use --workers=1"
            )
        if self.device and self.device.is_tpu != (strategy == "tpu") and strategy != "auto":
            raise UserError(f"--strategy={strategy} does not use --accelerator={self.accelerator}: use --strategy=auto")


def _is_unicode(text: str) -> bool:
    """Returns whether a text can be encoded; bytes of a command line that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(arguments: Sequence[str]) -> tuple[str, ...]:
    """Replaces each --flagfile by the flags in that file, because the workers do not have the file.

    Args:
      arguments: flags of trainer.task.

    Returns:
      The flags, without --flagfile.

    Raises:
      UserError: a file cannot be read.
    """
    try:
        return tuple(flags.FlagValues().read_flags_from_files(list(arguments)))
    except flags.Error as error:
        raise UserError(f"after --: {error}") from None


def parse_training(arguments: Sequence[str]) -> TrainConfig:
    """Parses flags as trainer.task will parse them.

    Args:
      arguments: flags of trainer.task.

    Raises:
      UserError: a flag is unknown, has a wrong value or is missing.
    """
    values = flags.FlagValues()
    config.define_flags(values)
    try:
        rest = values(["trainer.task", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"after --: {error} (python -m trainer.task --help lists the flags)") from None
    if rest:
        raise UserError(f"after --: {rest[0]!r} is not a flag of trainer.task: write flags as --name=value")
    try:
        return config.from_flags(values)
    except UserError as error:
        raise UserError(f"after --: {error}") from None


def is_given(flag: str, arguments: Sequence[str]) -> bool:
    """Returns whether the arguments set a flag.

    Args:
      flag: the name of a flag of trainer.task.
      arguments: valid flags of trainer.task.
    """
    values = flags.FlagValues()
    config.define_flags(values)
    values(["trainer.task", *arguments])
    return values[flag].present > 0


def parse_settings(flag: str, settings: Iterable[str]) -> dict[str, str]:
    """Parses the `K=V` settings of a flag; the last setting of a key wins.

    Args:
      flag: the flag's name, for the error.
      settings: the values of the flag, each `K=V`.

    Raises:
      UserError: a setting has no `=`.
    """
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--{flag}={setting} has no value: write --{flag}={setting}=VALUE")
        found[key] = value
    return found
