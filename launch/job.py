"""The description of a job to launch: what is the same wherever it runs."""

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

# A variable of such a name may hold a secret.
SECRET = re.compile("TOKEN|SECRET|PASS|PWD|KEY|CREDENTIAL|AUTH|DSN|PRIVATE|URL", re.IGNORECASE)

# What launchers write on a job to find it again.
OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance")

# Far more than anyone has, and less than any API counts to.
_MOST, _LONGEST = 100_000, 366 * 86400.0

_LONGEST_TEXT = 100_000  # Bytes; Linux takes 128 KiB.

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
class Place:
    """Where a target keeps jobs; each takes the fields that mean something to it.

    Attributes:
      namespace: of Kubernetes; None: that of the current context.
      project: of Google Cloud; None: that of the credentials.
      region: of Google Cloud.
    """

    namespace: str | None = None
    project: str | None = None
    region: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A job, checked as a whole.

    A target takes the fields that mean something to it, so that one description serves all.

    Attributes:
      arguments: the flags of trainer.task.
      name: what the job is called; each launch of it adds a suffix of its own.
      image: the container image.
      workers: how many processes train together.
      accelerator: what each worker computes on, as TYPE or TYPE:COUNT; None: CPUs.
      cpu: cores of each worker, as Kubernetes writes them; None: the target's default.
      memory: memory of each worker, as Kubernetes writes it; None: the target's default.
      env: environment variables of every worker.
      labels: labels of the job and its workers.
      spot: whether to use machines that may be taken away.
      restarts: how often each worker may crash and be started again; ends that are not its fault are not counted.
      time_limit: seconds after which the job is stopped; None: the target's default.
      service_account: whom the workers act as.
      namespace: of Kubernetes; None: that of the current context.
      project: of Google Cloud.
      region: of Google Cloud.
      tensorboard: the instance of Vertex AI to which the logs for TensorBoard go; None: to none.
      network: the VPC with which Vertex AI peers the workers; None: none.
      jobset: whether it becomes a JobSet on Kubernetes, which restarts all workers where one fails.
      training: the job as trainer.task will read it.
      device: the accelerator, taken apart.
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
        """Raises UserError naming the field, its value and the remedy."""
        if not _NAME.fullmatch(self.name):
            raise UserError(f"--name={self.name} must be up to 40 lower-case letters, digits and '-', and begin with a letter")
        if not 1 <= self.workers <= _MOST:
            raise UserError(f"--workers={self.workers} must be at least 1 and at most {_MOST}")
        if not 0 <= self.restarts <= _MOST:
            raise UserError(f"--restarts={self.restarts} must be at least 0 and at most {_MOST}")
        if self.time_limit is not None and not 0 < self.time_limit <= _LONGEST:
            raise UserError(
                f"--time_limit={self.time_limit:g} must be a number of seconds above 0, and at most a year's; leave it out for none"
            )
        self._check_texts()
        self._check_resources()
        self._check_names()
        object.__setattr__(self, "training", parse_training(self.arguments))
        object.__setattr__(self, "device", None if self.accelerator is None else accelerators.parse(self.accelerator))
        self._check_strategy()

    def check_image(self) -> None:
        """Raises UserError if the job has no image, which workers on other machines need."""
        if self.image is None:
            raise UserError(
                "--image is missing: name the container image, such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/poster-trainer"
            )

    def new_name(self) -> str:
        """What a launch of the job is called, the same for all its workers and their restarts."""
        return f"{self.name}-{secrets.token_hex(4)}"

    def _check_texts(self) -> None:
        texts = {f"--env={key}=…": value for key, value in self.env.items()} | {
            f"after --: {text!r}": text for text in self.arguments
        }
        for name, text in texts.items():
            if "\0" in text or not _is_unicode(text):
                raise UserError(f"{name} has a character that is none: write it as UTF-8, without zero bytes")
            if len(text.encode()) > _LONGEST_TEXT:
                raise UserError(f"{name[:60]} is longer than the {_LONGEST_TEXT} bytes that a process takes: put it into a file")

    def _check_resources(self) -> None:
        if self.cpu is not None and not (_CPU.fullmatch(self.cpu) and float(self.cpu.removesuffix("m"))):
            raise UserError(f"--cpu={self.cpu} must be a number of cores above 0, such as 4 or 500m")
        if self.memory is not None and not (_MEMORY.fullmatch(self.memory) and float(self.memory.rstrip("MGTi"))):
            raise UserError(f"--memory={self.memory} must be an amount above 0 with its unit, such as 16Gi")

    def _check_names(self) -> None:
        for name in ("image", "service_account", "project", "region"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[!-~]+", value):
                raise UserError(f"--{name}={value} is blank or has blanks in it: correct it, or leave it out")
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise UserError(f"--namespace={self.namespace} must be up to 63 lower-case letters, digits and '-'")
        if self.tensorboard is not None and not _TENSORBOARD.fullmatch(self.tensorboard):
            raise UserError(f"--tensorboard={self.tensorboard} must be projects/PROJECT/locations/REGION/tensorboards/NUMBER")
        if self.network is not None and not _NETWORK.fullmatch(self.network):
            raise UserError(
                f"--network={self.network} must be projects/NUMBER/global/networks/NAME, with the project's number, not its id: "
                "gcloud projects describe PROJECT says it"
            )
        for key in self.env:
            if not _VARIABLE.fullmatch(key):
                raise UserError(f"--env={key}=… names no variable: use letters, digits and '_'")
            if key in OWN_VARIABLES:
                raise UserError(f"--env={key}=… is not yours to set: the launcher does; leave it out")
        for key, value in self.labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise UserError(
                    f"--label={key}={value} is no label: key and value are up to 63 letters, digits, '-', '_' and '.' that begin "
                    "and end with a letter or digit; the key may have a domain and '/' before it"
                )
            if key in OWN_LABELS:
                raise UserError(f"--label={key}=… is not yours to set: the launcher does; leave it out")

    def _check_strategy(self) -> None:
        strategy = self.training.strategy
        if self.workers > 1 and strategy not in ("auto", "multi_worker"):
            raise UserError(
                f"--strategy={strategy} is for one worker, not --workers={self.workers}: use --strategy=auto, or one worker"
            )
        if self.workers > 1 and self.training.run_eagerly:
            raise UserError(
                "--run_eagerly is for one worker: TensorFlow's workers exchange nothing eagerly; leave it out, or use one"
            )
        if self.workers == 1 and strategy == "multi_worker":
            raise UserError("--strategy=multi_worker needs --workers=2 or more: use --strategy=auto")
        if self.device and self.device.is_tpu and self.workers > 1:
            raise UserError(f"--accelerator={self.accelerator} with --workers={self.workers}: a TPU of one host has one worker")
        if self.device and self.device.is_tpu != (strategy == "tpu") and strategy != "auto":
            raise UserError(f"--strategy={strategy} does not use --accelerator={self.accelerator}: use --strategy=auto")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written; bytes of a command line that are no UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(arguments: Sequence[str]) -> tuple[str, ...]:
    """Flags of trainer.task with the content of what --flagfile names in its place, for the workers have no such file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return tuple(flags.FlagValues().read_flags_from_files(list(arguments)))
    except flags.Error as error:
        raise UserError(f"after --: {error}") from None


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


def is_given(flag: str, arguments: Sequence[str]) -> bool:
    """Whether valid flags of trainer.task set this one."""
    values = flags.FlagValues()
    config.define_flags(values)
    values(["trainer.task", *arguments])
    return values[flag].present > 0


def parse_settings(flag: str, settings: Iterable[str]) -> dict[str, str]:
    """What `K=V` settings of a flag say; the last of several for one key counts.

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
