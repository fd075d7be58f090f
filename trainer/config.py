"""A training job: the absl flags of `trainer.task`, and the frozen dataclass that they become.

Imports absl and the standard library alone, so that a launcher can check a job's flags without TensorFlow.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from absl import flags

from trainer.errors import UserError

_OWN_NETWORKS = ("cnn", "resnet")
_IMAGENET = ("efficientnet_v2_b0", "resnet50_v2")  # Their ImageNet weights can be downloaded.
_LITE = ("efficientnet_lite0", "efficientnet_lite2")  # Their ImageNet weights must be converted first.
BACKBONES = (*_LITE, *_IMAGENET)

# Fields that have an effect only with --weights.
FINE_TUNING = ("freeze_epochs", "backbone_rate")


def _option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    maximum: float = math.inf,
    free: bool = False,
) -> Any:
    """Returns a dataclass field that also becomes a flag.

    Args:
      default: the value when the flag is not given; its type is the flag's type.
      help: the flag's help text.
      choices: the allowed values of a string; empty allows all.
      minimum: the smallest allowed number.
      maximum: the largest allowed number; infinity and NaN are never allowed.
      free: whether a job may be resumed with another value, because the value does not change what the network learns.
    """
    limits = (minimum, maximum)
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "limits": limits, "free": free})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of `trainer.task`: each field is the flag of the same name, and its help text describes it."""

    data_dir: str = _option(
        "", "Required. Folder of the data set, which trainer.prepare wrote: on a disk or gs://BUCKET/PATH.", free=True
    )
    job_dir: str = _option(
        "",
        "Required. Folder for all output of the job, on a disk or gs://BUCKET/PATH. If it holds an unfinished job with the same "
        "options, the job resumes.",
        free=True,
    )

    model: str = _option("resnet", "Network to train.", choices=(*_OWN_NETWORKS, *BACKBONES))
    weights: str = _option(
        "none",
        "Initial weights of the network without its head: none (random weights), imagenet (downloads weights trained on "
        f"ImageNet; for {' and '.join(_IMAGENET)}), or the path of a file NAME.weights.h5. Not for {' and '.join(_OWN_NETWORKS)}.",
    )
    freeze_epochs: float = _option(
        1.0,
        "Only with --weights: number of epochs, fractions allowed, in which only the head is trained; then the whole network is.",
        minimum=0.0,
    )
    backbone_rate: float = _option(
        0.1,
        "Only with --weights: after --freeze_epochs, the pretrained layers learn at --learning_rate times this factor (0 to 1).",
        minimum=0.0,
        maximum=1.0,
    )
    precision: str = _option(
        "float32",
        "Number format of the network's computations. The weights and the head always use float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    dropout: float = _option(0.3, "Fraction of the features that is dropped before the head.", minimum=0.0, maximum=0.95)
    augment: str = _option(
        "light",
        "Random changes to the training images. light: flip, crop, brightness and contrast; strong: larger changes of these, and "
        "CutMix; none: no changes.",
        choices=("none", "light", "strong"),
    )
    epochs: int = _option(
        15, "Number of passes over the training films. A finished job continues if the number is raised.", minimum=1, free=True
    )
    batch_size: int = _option(64, "Films per training step, summed over all replicas.", minimum=1)
    optimizer: str = _option(
        "adamw", "Optimizer: Adam, or AdamW with the weight decay of --weight_decay.", choices=("adam", "adamw")
    )
    learning_rate: float = _option(1e-3, "Highest learning rate, reached after --warmup_epochs.", minimum=0.0)
    schedule: str = _option(
        "cosine",
        "Learning rate over the training. constant: it stays; step: divided by 10 after 1/2 and again after 3/4 of the steps; "
        "exponential: falls exponentially to 1/100; cosine: falls along half a cosine to 0.",
        choices=("constant", "step", "exponential", "cosine"),
    )
    warmup_epochs: float = _option(
        1.0, "Number of epochs, fractions allowed, in which the learning rate rises linearly from 0.", minimum=0.0
    )
    weight_decay: float = _option(0.05, "Decoupled weight decay of --optimizer=adamw.", minimum=0.0)
    early_stopping: int = _option(
        0,
        "Stop after this number of epochs in a row without a better mean average precision on the validation split; 0: never.",
        minimum=0,
    )
    seed: int = _option(
        0,
        "Seed of all random numbers: initial weights, order of the films, dropout and augmentation.",
        minimum=0,
        maximum=2**32 - 1,
    )
    open_shards: int = _option(16, "Number of training shards (TFRecord files) that are read at the same time.", minimum=1)
    shuffle_window: int = _option(512, "Number of records of each open shard that are kept in memory and shuffled.", minimum=1)
    synthetic_data: bool = _option(
        False, "Train on one random batch in memory instead of the data set, to measure the speed of the device."
    )
    cache: str = _option(
        "",
        "Copy each shard when it is first read, so that later epochs do not read from remote storage: memory, or a folder on a "
        "disk of this machine. Empty: no copies.",
        free=True,
    )
    max_steps: int = _option(0, "Stop after this number of training steps; 0: no limit, all --epochs.", minimum=0)

    strategy: str = _option(
        "auto",
        "tf.distribute strategy. auto: tpu if a TPU is configured, multi_worker if the environment describes several workers, "
        "mirrored if this machine has several GPUs, otherwise one_device.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        free=True,
    )
    peer_timeout: float = _option(
        300.0,
        "Seconds that a worker waits for the other workers at the start. Then it names the missing ones and exits 75.",
        minimum=1.0,
        free=True,
    )
    rejoin: int = _option(
        10,
        "For trainer.guard: how many times in a row a worker that exits 75 is restarted without making a training step; 0: never.",
        minimum=0,
        free=True,
    )
    grace_period: float = _option(
        12.0,
        "For trainer.guard: seconds after SIGTERM in which a worker can save its state; then it is killed.",
        minimum=0.0,
        free=True,
    )
    stall_timeout: float = _option(
        600.0,
        "For trainer.guard: seconds without progress after which a worker is killed and restarted. Three times as long before its "
        "first training step. 0: never.",
        minimum=0.0,
        free=True,
    )
    backup_steps: int = _option(
        200,
        "Save a backup, from which a killed job resumes, every this number of steps and at the end of each epoch.",
        minimum=1,
        free=True,
    )
    steps_per_execution: int = _option(
        1,
        "Number of training steps in one call of the device. They all use the learning rate of the first of them.",
        minimum=1,
    )
    deterministic: bool = _option(
        False, "Use deterministic TensorFlow kernels, so that runs on GPUs are equal bit by bit. They are slower.", free=True
    )
    run_eagerly: bool = _option(False, "Run each step as ordinary Python, without a graph, for a debugger. Slow.", free=True)
    debug_nans: bool = _option(False, "Stop at the first operation that produces NaN or infinity, and name it. Slow.", free=True)
    profile_steps: str = _option(
        "", "FIRST,LAST, such as 10,20: write a profile of these training steps for TensorBoard. Empty: no profile.", free=True
    )
    log_format: str = _option(
        "auto",
        "Format of the log. text: lines for a terminal; json: one JSON object per line, for a log collector; auto: json in "
        "Kubernetes and on Vertex AI, otherwise text.",
        choices=("auto", "text", "json"),
        free=True,
    )
    log_steps: int = _option(
        0,
        "Number of training steps between two log lines within an epoch; 0: about ten lines per epoch, at least 30 seconds apart.",
        minimum=0,
        free=True,
    )
    fresh: bool = _option(
        False,
        "Move an earlier job in --job_dir to the folder old-NUMBER there, and start from scratch. Do not use it in a command that "
        "is restarted automatically.",
        free=True,
    )

    def __post_init__(self) -> None:
        """Checks each value; raises UserError that names the flag, the allowed values and the value."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices = field.metadata["choices"]
            if choices and value not in choices:
                raise UserError(f"--{field.name} must be {_one_of(choices)}, got {value!r}")
            if isinstance(value, int | float):
                _check_number(field.name, value, *field.metadata["limits"])
        for name in ("data_dir", "job_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: name a folder, --{name}=FOLDER")
        _ = self.profile_range
        self._check_weights()

    def _check_weights(self) -> None:
        if not self.is_pretrained:
            for field in dataclasses.fields(self):
                if field.name in FINE_TUNING and (value := getattr(self, field.name)) != field.default:
                    raise UserError(f"--{field.name}={value} needs pretrained weights: add --weights, or leave --{field.name} out")
            return
        if self.weights != "imagenet" and not self.weights.endswith(".weights.h5"):
            raise UserError(f"--weights must be none, imagenet or a file NAME.weights.h5, got {self.weights!r}")
        if self.model in _OWN_NETWORKS:
            able = _IMAGENET if self.weights == "imagenet" else BACKBONES
            raise UserError(
                f"--weights={self.weights} does not fit --model={self.model}, which always begins with random weights: choose "
                f"--model={' or '.join(able)}, or leave --weights out"
            )
        if self.weights == "imagenet" and self.model in _LITE:
            raise UserError(
                f"--weights=imagenet is not available for --model={self.model}: make a file with "
                f"python -m trainer.model.convert_efficientnet_lite and name it in --weights, or choose "
                f"--model={' or '.join(_IMAGENET)}"
            )

    @property
    def is_pretrained(self) -> bool:
        """Returns whether a part of the network begins with pretrained weights."""
        return self.weights != "none"

    def check_divides(self, count: int, what: str) -> None:
        """Checks that the batch divides evenly.

        Args:
          count: the number of workers or replicas that share a batch.
          what: their kind for the error message, "workers" or "replicas".

        Raises:
          UserError: `batch_size` is not a multiple of `count`.
        """
        if self.batch_size % count:
            raise UserError(f"--batch_size={self.batch_size} does not divide among {count} {what}: choose a multiple of {count}")

    @property
    def profile_range(self) -> tuple[int, int] | None:
        """Returns the first and the last training step to profile, counted from 1; None without --profile_steps."""
        if not self.profile_steps:
            return None
        try:
            first, last = map(int, self.profile_steps.split(","))
        except ValueError:
            first, last = 0, 0
        if not 0 < first <= last:
            raise UserError(f"--profile_steps must be FIRST,LAST, such as 10,20, got {self.profile_steps!r}")
        return first, last

    def result_fields(self) -> dict[str, Any]:
        """Returns the fields that decide what the network learns: a job is resumed only if they are the same."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata["free"]}
        # Only the file's name: after the start of a job the file is not read again, and may be moved or deleted.
        return fields | {"weights": self.weights.rpartition("/")[2]}


def _one_of(choices: tuple[str, ...]) -> str:
    return f"one of {', '.join(choices)}"


def _check_number(name: str, value: float, minimum: float, maximum: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"--{name} must be a finite number, got {value}")
    if not minimum <= value <= maximum:
        allowed = f"from {_plain(minimum)} to {_plain(maximum)}" if math.isfinite(maximum) else f"at least {_plain(minimum)}"
        raise UserError(f"--{name} must be {allowed}, got {_plain(value)}")


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def fingerprint(description: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class _ClearError(flags.Flag):
    """A flag whose error has the form of `TrainConfig`'s own, where absl shows an exception of Python."""

    def _parse(self, argument: Any) -> Any:
        try:
            return super()._parse(argument)
        except flags.IllegalFlagValueError:
            raise flags.IllegalFlagValueError(f"--{self.name} must be {self._allowed()}, got {argument!r}") from None

    def _allowed(self) -> str:
        return "a whole number" if isinstance(self.parser, flags.IntegerParser) else "a number"


class _EnumFlag(_ClearError, flags.EnumFlag):
    def _allowed(self) -> str:
        return _one_of(tuple(self.parser.enum_values))


class _BooleanFlag(_ClearError, flags.BooleanFlag):
    def _allowed(self) -> str:
        return "true or false"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of `TrainConfig`.

    Args:
      flag_values: the registry that the flags are added to.
    """
    for field in dataclasses.fields(TrainConfig):
        flags.DEFINE_flag(_flag(field), flag_values)


def _flag(field: "dataclasses.Field[Any]") -> flags.Flag:
    name, default, text, choices = field.name, field.default, field.metadata["help"], field.metadata["choices"]
    if choices:
        return _EnumFlag(name, default, text, choices)
    if isinstance(default, bool):
        return _BooleanFlag(name, default, text)
    if isinstance(default, str):
        return flags.Flag(flags.ArgumentParser(), flags.ArgumentSerializer(), name, default, text)
    parser = flags.IntegerParser() if isinstance(default, int) else flags.FloatParser()
    return _ClearError(parser, flags.ArgumentSerializer(), name, default, text)


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """Returns the job that the parsed flags describe.

    Raises:
      UserError: a flag has a value that is not allowed.
    """
    return TrainConfig(**{field.name: flag_values[field.name].value for field in dataclasses.fields(TrainConfig)})


def without_effect(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the fields that have no effect in the job that a config.json describes."""
    return FINE_TUNING if description.get("weights", "none") == "none" else ()


def from_description(description: Mapping[str, Any]) -> TrainConfig:
    """Returns the job that a config.json describes, with defaults for the fields that do not change what the network learns.

    Args:
      description: the content of config.json; one that an earlier version wrote may lack newer fields, which get their defaults.
    """
    known = {field.name for field in dataclasses.fields(TrainConfig) if not field.metadata["free"]}
    # An earlier version also wrote down fields without effect.
    known -= set(without_effect(description))
    return TrainConfig(data_dir="-", job_dir="-", **{name: description[name] for name in known & description.keys()})
