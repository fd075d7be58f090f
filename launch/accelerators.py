"""The accelerators that a worker can use, under GKE's names."""

import dataclasses
import difflib
import re

from trainer.errors import UserError

# The number of GPUs in the largest machine of each type.
_GPUS = {
    "nvidia-tesla-p4": 4,
    "nvidia-tesla-p100": 4,
    "nvidia-tesla-v100": 8,
    "nvidia-tesla-t4": 4,
    "nvidia-l4": 8,
    "nvidia-tesla-a100": 16,
    "nvidia-a100-80gb": 8,
    "nvidia-h100-80gb": 8,
    "nvidia-h100-mega-80gb": 8,
    "nvidia-h200-141gb": 8,
    "nvidia-b200": 8,
}

# The topologies that fit on one host, by number of chips. TensorFlow supports TPUs up to v5.
_TPUS = {
    "tpu-v3-device": {4: "2x2"},
    "tpu-v4-podslice": {4: "2x2x1"},
    "tpu-v5-lite-podslice": {1: "1x1", 4: "2x2", 8: "2x4"},
    "tpu-v5p-slice": {4: "2x2x1"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """The accelerator of one worker.

    Attributes:
      type: GKE's name for the accelerator.
      count: the number of GPUs or TPU chips.
      topology: the arrangement of the TPU chips; None for GPUs.
    """

    type: str
    count: int
    topology: str | None = None

    @property
    def is_tpu(self) -> bool:
        """Whether the accelerator is a TPU rather than GPUs."""
        return self.topology is not None

    @property
    def replicas(self) -> int:
        """The number of devices that TensorFlow sees: two for each TPU v3 chip, else one for each GPU or chip."""
        return 2 * self.count if self.type == "tpu-v3-device" else self.count


def parse(text: str) -> Accelerator:
    """Parses TYPE or TYPE:COUNT.

    Args:
      text: the accelerator; the default count is 1, for a TPU the chips of the smallest topology.

    Raises:
      UserError: the type does not exist, or no machine has that many.
    """
    type_, colon, digits = text.partition(":")
    if colon and not re.fullmatch("[1-9][0-9]{0,3}", digits):
        raise UserError(f"--accelerator must be TYPE or TYPE:COUNT, such as nvidia-l4:2, got {text!r}")
    if type_ in _GPUS:
        count = int(digits or 1)
        if count > _GPUS[type_]:
            raise UserError(f"--accelerator={text} is more than one machine has: use at most {type_}:{_GPUS[type_]}")
        return Accelerator(type=type_, count=count)
    if type_ in _TPUS:
        topologies = _TPUS[type_]
        count = int(digits or min(topologies))
        if count not in topologies:
            choices = " or ".join(f"{type_}:{chips}" for chips in topologies)
            raise UserError(f"--accelerator={text} is not a TPU on one host: use {choices}")
        return Accelerator(type=type_, count=count, topology=topologies[count])
    near = difflib.get_close_matches(type_.lower().replace("_", "-"), [*_GPUS, *_TPUS], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? Choose" if near else "choose"
    raise UserError(f"--accelerator={text} is unknown: {hint} one of {', '.join([*_GPUS, *_TPUS])}")
