"""The machine types of Vertex AI, and the choice of the smallest one that fits a worker."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from launch.accelerators import Accelerator
from trainer.errors import UserError

# The defaults of --cpu and --memory, in cores and GB.
_CPU, _MEMORY = 4, 8

# Machine types: https://cloud.google.com/vertex-ai/docs/training/configure-compute, read in November 2026. Cores and GB:
# https://cloud.google.com/compute/docs/machine-resource, where a GB is 2^30 bytes.

# Machines without accelerators, the cheapest series first: GB per core, and the available numbers of cores.
_SERIES = {
    "e2-highcpu": (1, (16, 32)),
    "e2-standard": (4, (4, 8, 16, 32)),
    "e2-highmem": (8, (2, 4, 8, 16)),
    "n2-highcpu": (1, (16, 32, 48, 64, 80)),
    "n2-standard": (4, (4, 8, 16, 32, 48, 64, 80)),
    "n2-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80)),
    "n1-highcpu": (0.9, (16, 32, 64, 96)),
    "n1-standard": (3.75, (4, 8, 16, 32, 64, 96)),
    "n1-highmem": (6.5, (2, 4, 8, 16, 32, 64, 96)),
}

# GPUs that are attached to n1 machines: for each number of GPUs the largest number of cores. P100 support ended in 2026.
_ATTACHED = {
    "nvidia-tesla-p4": ("NVIDIA_TESLA_P4", {1: 16, 2: 32, 4: 96}),
    "nvidia-tesla-t4": ("NVIDIA_TESLA_T4", {1: 16, 2: 32, 4: 96}),
    "nvidia-tesla-v100": ("NVIDIA_TESLA_V100", {1: 8, 2: 16, 4: 32, 8: 96}),
}

# Machines with built-in GPUs: the number of GPUs, the machine type, its cores and GB.
_BUILT_IN: dict[str, tuple[str, tuple[tuple[int, str, int, float], ...]]] = {
    "nvidia-l4": (
        "NVIDIA_L4",
        (
            *((1, f"g2-standard-{cores}", cores, 4 * cores) for cores in (4, 8, 12, 16, 32)),
            *((cores // 12, f"g2-standard-{cores}", cores, 4 * cores) for cores in (24, 48, 96)),
        ),
    ),
    "nvidia-tesla-a100": (
        "NVIDIA_TESLA_A100",
        (*((n, f"a2-highgpu-{n}g", 12 * n, 85 * n) for n in (1, 2, 4, 8)), (16, "a2-megagpu-16g", 96, 1360)),
    ),
    "nvidia-a100-80gb": ("NVIDIA_A100_80GB", tuple((n, f"a2-ultragpu-{n}g", 12 * n, 170 * n) for n in (1, 2, 4, 8))),
    "nvidia-h100-80gb": ("NVIDIA_H100_80GB", tuple((n, f"a3-highgpu-{n}g", 26 * n, 234 * n) for n in (1, 2, 4, 8))),
    "nvidia-h100-mega-80gb": ("NVIDIA_H100_MEGA_80GB", ((8, "a3-megagpu-8g", 208, 1872),)),
    "nvidia-h200-141gb": ("NVIDIA_H200_141GB", ((8, "a3-ultragpu-8g", 224, 2952),)),
    "nvidia-b200": ("NVIDIA_B200", ((8, "a4-highgpu-8g", 224, 3968),)),
}

# Machines with TPUs, by number of chips: machine type, cores, GB, and the other fields of a machineSpec. For v3, Vertex AI counts
# cores, two per chip.
_TPUS: dict[str, dict[int, tuple[str, int, float, dict[str, Any]]]] = {
    "tpu-v3-device": {4: ("cloud-tpu", 96, 340, {"acceleratorType": "TPU_V3", "acceleratorCount": 8})},
    "tpu-v5-lite-podslice": {
        1: ("ct5lp-hightpu-1t", 24, 48, {"tpuTopology": "1x1"}),
        4: ("ct5lp-hightpu-4t", 112, 192, {"tpuTopology": "2x2"}),
        8: ("ct5lp-hightpu-8t", 224, 384, {"tpuTopology": "2x4"}),
    },
}

_UNITS = {"M": 1e6, "G": 1e9, "T": 1e12, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine type.

    Attributes:
      type: the machine type's name.
      cpu: the number of cores.
      memory: the memory in GB.
      extras: the fields of a machineSpec that describe the accelerators.
    """

    type: str
    cpu: int
    memory: float
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """The machineSpec of a worker pool."""
        return {"machineType": self.type, **self.extras}


def choose(device: Accelerator | None, *, cpu: str | None, memory: str | None) -> Machine:
    """Returns the smallest machine type that fits a worker.

    Args:
      device: the worker's accelerator; None: CPUs only.
      cpu: the minimum number of cores, in Kubernetes' notation; None: 4.
      memory: the minimum memory, in Kubernetes' notation; None: 8 GB.

    Raises:
      UserError: no machine type fits.
    """
    machines = list(_with_accelerator(device) if device else _without_accelerator())
    cores = _cores(cpu) if cpu else _CPU
    size = _gigabytes(memory) if memory else _MEMORY
    # A stable sort: among machines with equally many cores, the cheapest series stays first.
    for machine in sorted(machines, key=lambda each: each.cpu):
        if machine.cpu >= cores and machine.memory >= size:
            return machine
    largest = max(machines, key=lambda each: (each.cpu, each.memory))
    asked = " ".join(f"--{flag}={value}" for flag, value in (("cpu", cpu), ("memory", memory)) if value)
    kind = f" with {device.type}:{device.count}" if device else ""
    raise UserError(
        f"{asked} is more than any Vertex AI machine{kind} has: use at most {largest.cpu} cores and {largest.memory:g}Gi, as "
        f"{largest.type} has"
    )


def _without_accelerator() -> Iterator[Machine]:
    for name, (ratio, sizes) in _SERIES.items():
        yield from (Machine(f"{name}-{cores}", cores, ratio * cores) for cores in sizes)


def _with_accelerator(device: Accelerator) -> Iterator[Machine]:
    """Yields the machines that have an accelerator in exactly this number."""
    if device.type in _ATTACHED:
        enum, most = _ATTACHED[device.type]
        _check(device, list(most))
        for machine in _without_accelerator():
            # Google's documentation warns that with two cores logging may fail.
            if machine.type.startswith("n1-") and 2 < machine.cpu <= most[device.count]:
                yield dataclasses.replace(machine, extras={"acceleratorType": enum, "acceleratorCount": device.count})
    elif device.type in _BUILT_IN:
        enum, machines = _BUILT_IN[device.type]
        _check(device, sorted({count for count, *_ in machines}))
        for count, name, cores, size in machines:
            if count == device.count:
                yield Machine(name, cores, size, {"acceleratorType": enum, "acceleratorCount": count})
    elif device.type in _TPUS:
        yield Machine(*_TPUS[device.type][device.count])  # accelerators.parse has checked the count.
    else:
        known = ", ".join([*_ATTACHED, *_BUILT_IN, *_TPUS])
        raise UserError(f"--accelerator={device.type} is not available on Vertex AI: use one of {known}")


def _check(device: Accelerator, counts: list[int]) -> None:
    if device.count not in counts:
        nearest = min(counts, key=lambda count: (abs(count - device.count), -count))
        raise UserError(
            f"--accelerator={device.type}:{device.count} is not available on Vertex AI, whose machines have "
            f"{', '.join(map(str, counts))}: use {device.type}:{nearest}"
        )


def _cores(text: str) -> float:
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def _gigabytes(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit] / 2**30
