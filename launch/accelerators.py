"""The accelerators that a worker can ask for, under the names that GKE gives them."""

import dataclasses
import difflib
import re

from trainer.errors import UserError

# How many of them the largest machine has.
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

# The topologies of one host by their chips. Google's releases of TensorFlow for TPUs end with v5.
_TPUS = {
    "tpu-v3-device": {4: "2x2"},
    "tpu-v4-podslice": {4: "2x2x1"},
    "tpu-v5-lite-podslice": {1: "1x1", 4: "2x2", 8: "2x4"},
    "tpu-v5p-slice": {4: "2x2x1"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What one worker computes on.

    Attributes:
      type: GKE's name for it.
      count: GPUs, or chips of a TPU.
      topology: how the chips are arranged; None for GPUs.
    """

    type: str
    count: int
    topology: str | None = None

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU; else it is GPUs."""
        return self.topology is not None

    @property
    def replicas(self) -> int:
        """How many devices TensorFlow sees: a chip of a TPU v3 has two cores of their own, all others one."""
        return 2 * self.count if self.type == "tpu-v3-device" else self.count


def parse(text: str) -> Accelerator:
    """The accelerator that TYPE or TYPE:COUNT names; without a count one, and for a TPU the smallest topology.

    Raises:
      UserError: there is no such type, or no machine with so many.
    """
    type_, colon, digits = text.partition(":")
    if colon and not re.fullmatch("[1-9][0-9]{0,3}", digits):
        raise UserError(f"--accelerator={text} is not TYPE or TYPE:COUNT, such as nvidia-l4:2")
    if type_ in _GPUS:
        count = int(digits or 1)
        if count > _GPUS[type_]:
            raise UserError(f"--accelerator={text} asks for more than a machine has: at most {type_}:{_GPUS[type_]}, a worker")
        return Accelerator(type=type_, count=count)
    if type_ in _TPUS:
        topologies = _TPUS[type_]
        count = int(digits or min(topologies))
        if count not in topologies:
            choices = " or ".join(f"{type_}:{chips}" for chips in topologies)
            raise UserError(f"--accelerator={text} is no TPU of one host: use {choices}")
        return Accelerator(type=type_, count=count, topology=topologies[count])
    near = difflib.get_close_matches(type_.lower().replace("_", "-"), [*_GPUS, *_TPUS], n=1, cutoff=0.5)
    hint = f"is it {near[0]}? There" if near else "there"
    raise UserError(f"--accelerator={text} is not known: {hint} is {', '.join([*_GPUS, *_TPUS])}")
