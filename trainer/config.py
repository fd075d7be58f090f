"""The description of a training job: the absl flags of `trainer.task` and the frozen dataclass that they become.

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
# For these nobody offers a download.
_LITE = ("efficientnet_lite0", "efficientnet_lite2")
BACKBONES = (*_LITE, "efficientnet_v2_b0", "resnet50_v2")

# What these say matters to a network with --weights alone.
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
    """A field that is also a flag.

    Args:
      default: its value when the flag is not given; its type decides the flag's.
      help: the flag's help text.
      choices: what a string may be.
      minimum: the least that a number may be.
      maximum: the most that it may be; infinity is never allowed.
      free: whether a job may be resumed with another value, because the value does not change what is learnt.
    """
    limits = (minimum, maximum)
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "limits": limits, "free": free})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that `trainer.task` is told: each field is the flag of the same name, described by its help text."""

    data_dir: str = _option("", "The data set: a folder that trainer.prepare made.", free=True)
    job_dir: str = _option("", "Where everything about the job goes; the job resumes from there by itself.", free=True)

    model: str = _option("resnet", "The network.", choices=(*_OWN_NETWORKS, *BACKBONES))
    weights: str = _option(
        "none",
        "What the network begins with, but for its head: none, which is random weights; imagenet, which downloads them; or a "
        "file NAME.weights.h5.",
    )
    freeze_epochs: float = _option(1.0, "With --weights: epochs in which the head alone learns.", minimum=0.0)
    backbone_rate: float = _option(
        0.1, "With --weights: the multiplier of the learning rate for the rest afterwards.", minimum=0.0, maximum=1.0
    )
    precision: str = _option(
        "float32",
        "What the network computes in; its head and its weights stay float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    dropout: float = _option(0.3, "The share of features dropped before the head.", minimum=0.0, maximum=0.95)
    augment: str = _option(
        "light",
        "Changes to the training pictures: flips, crops, brightness and contrast.",
        choices=("none", "light", "strong"),
    )
    epochs: int = _option(15, "How often training sees every film.", minimum=1, free=True)
    batch_size: int = _option(64, "Films a step, over all replicas together.", minimum=1)
    optimizer: str = _option("adamw", "The optimizer.", choices=("adam", "adamw"))
    learning_rate: float = _option(1e-3, "The highest learning rate.", minimum=0.0)
    schedule: str = _option(
        "cosine",
        "How the learning rate falls: not at all; to a tenth after a half and again after three quarters of the steps; "
        "exponentially to a hundredth; along half a cosine to zero.",
        choices=("constant", "step", "exponential", "cosine"),
    )
    warmup_epochs: float = _option(1.0, "Epochs over which the rate first rises from zero.", minimum=0.0)
    weight_decay: float = _option(0.05, "Decoupled weight decay, for adamw.", minimum=0.0)
    early_stopping: int = _option(
        0, "Stop after this many epochs without a better validation mean average precision; 0: never.", minimum=0
    )
    seed: int = _option(0, "Of the initial weights, the order of films, dropout and augmentation.", minimum=0, maximum=2**32 - 1)
    open_shards: int = _option(16, "Training shards read at the same time, interleaved.", minimum=1)
    shuffle_window: int = _option(
        512, "Records shuffled among each other within each open shard; they are held in memory.", minimum=1
    )
    synthetic_data: bool = _option(False, "Train on one random batch from memory: the device's own speed.")
    cache: str = _option(
        "",
        "Keep the shards that this worker has read, so that later epochs read nothing from afar: memory, or a folder on its disk.",
        free=True,
    )
    max_steps: int = _option(0, "Stop after this many steps; 0: when the epochs are over.", minimum=0)

    strategy: str = _option(
        "auto",
        "The tf.distribute strategy; auto: tpu where one is configured, multi_worker where a cluster of several workers is "
        "described, mirrored where there are several GPUs, else one_device.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        free=True,
    )
    peer_timeout: float = _option(
        300.0, "Seconds that a worker waits for the others before it exits 75, naming the missing ones.", minimum=1.0, free=True
    )
    rejoin: int = _option(
        10,
        "For trainer.guard: how often in a row, without a training step, a worker that exits 75 is started again.",
        minimum=0,
        free=True,
    )
    grace_period: float = _option(
        12.0, "For trainer.guard: seconds that a worker has to save its state after SIGTERM.", minimum=0.0, free=True
    )
    stall_timeout: float = _option(
        600.0,
        "For trainer.guard: seconds without progress after which a worker is ended and started again, three times as many "
        "until its first step; 0: never.",
        minimum=0.0,
        free=True,
    )
    backup_steps: int = _option(
        200,
        "Save the state that a killed job resumes from every this many steps, and at each epoch's end.",
        minimum=1,
        free=True,
    )
    steps_per_execution: int = _option(
        1, "Steps that one call of the device runs, all at the learning rate of the first.", minimum=1
    )
    deterministic: bool = _option(False, "Ask TensorFlow for bit-exact kernels on GPUs too, where they are slower.", free=True)
    run_eagerly: bool = _option(False, "Run step by step in Python, for a debugger.", free=True)
    debug_nans: bool = _option(False, "Stop at the first operation that gives NaN or infinity, and name it.", free=True)
    profile_steps: str = _option("", "FIRST,LAST: steps whose trace goes to TensorBoard.", free=True)
    log_format: str = _option(
        "auto",
        "text, or json lines for a log collector; auto: json in Kubernetes and on Vertex AI, else text.",
        choices=("auto", "text", "json"),
        free=True,
    )
    log_steps: int = _option(
        0,
        "Training steps between two lines of the log within an epoch; 0: about ten lines an epoch, at least 30 seconds apart.",
        minimum=0,
        free=True,
    )
    fresh: bool = _option(
        False, "Move what the job directory holds aside and start anew; not for a command that is to resume.", free=True
    )

    def __post_init__(self) -> None:
        """Raises UserError naming the flag, its value and what it may be."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices, (minimum, maximum) = field.metadata["choices"], field.metadata["limits"]
            if choices and value not in choices:
                raise UserError(f"--{field.name}={value} is none of {', '.join(choices)}")
            if isinstance(value, int | float) and not (minimum <= value <= maximum and math.isfinite(value)):
                limits = f"from {minimum:g}" + (f" to {maximum:g}" if math.isfinite(maximum) else "")
                raise UserError(f"--{field.name}={value} must be a number {limits}")
        for name in ("data_dir", "job_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: name a folder")
        _ = self.profile_range
        self._check_weights()

    def _check_weights(self) -> None:
        if not self.is_pretrained:
            for field in dataclasses.fields(self):
                if field.name in FINE_TUNING and (value := getattr(self, field.name)) != field.default:
                    raise UserError(f"--{field.name}={value} is for a network with --weights: name those, or leave it out")
            return
        if self.model in _OWN_NETWORKS:
            raise UserError(f"--weights={self.weights} is not for --model={self.model}: choose one of {', '.join(BACKBONES)}")
        if self.weights == "imagenet":
            if self.model in _LITE:
                raise UserError(
                    f"--weights=imagenet: nobody offers those of {self.model} for download: make a file of them with "
                    "trainer/model/convert_efficientnet_lite.py and name it"
                )
        elif not self.weights.endswith(".weights.h5"):
            raise UserError(f"--weights={self.weights} is none of none, imagenet and a file NAME.weights.h5")

    @property
    def is_pretrained(self) -> bool:
        """Whether a part of the network begins with weights of others."""
        return self.weights != "none"

    def check_divides(self, count: int, what: str) -> None:
        """Raises UserError if so many of what ("workers", "replicas") cannot share the batch."""
        if self.batch_size % count:
            raise UserError(f"--batch_size={self.batch_size} does not divide among {count} {what}: choose a multiple of {count}")

    @property
    def profile_range(self) -> tuple[int, int] | None:
        """The first and the last step to profile, or None."""
        if not self.profile_steps:
            return None
        try:
            first, last = map(int, self.profile_steps.split(","))
        except ValueError:
            first, last = 0, 0
        if not 0 < first <= last:
            raise UserError(f"--profile_steps={self.profile_steps} is not FIRST,LAST, such as 10,20")
        return first, last

    def result_fields(self) -> dict[str, Any]:
        """The fields that decide what is learnt: a job is resumed only where they are the same."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata["free"]}
        # Its name: once a job has begun the file is not read again, and may be elsewhere, or gone.
        return fields | {"weights": self.weights.rpartition("/")[2]}


def fingerprint(description: Any) -> str:
    """The SHA-256 of a JSON-like description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of `TrainConfig`."""
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
    }
    for field in dataclasses.fields(TrainConfig):
        kind, text, choices = type(field.default), field.metadata["help"], field.metadata["choices"]
        if choices:
            flags.DEFINE_enum(field.name, field.default, choices, text, flag_values=flag_values)
        else:
            define[kind](field.name, field.default, text, flag_values=flag_values)


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """The job that the parsed flags describe.

    Raises:
      UserError: a value that its flag does not take.
    """
    return TrainConfig(**{field.name: flag_values[field.name].value for field in dataclasses.fields(TrainConfig)})


def without_effect(description: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a config.json that do not matter to its job."""
    return FINE_TUNING if description.get("weights", "none") == "none" else ()


def from_description(description: Mapping[str, Any]) -> TrainConfig:
    """The job that a config.json describes, as far as it decides what is learnt."""
    known = {field.name for field in dataclasses.fields(TrainConfig) if not field.metadata["free"]}
    # An earlier version wrote down what was said of these in vain.
    known -= set(without_effect(description))
    # One of an earlier version lacks what did not exist then, which is at its default.
    return TrainConfig(data_dir="-", job_dir="-", **{name: description[name] for name in known & description.keys()})
