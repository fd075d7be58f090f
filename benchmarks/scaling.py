"""The numbers of SCALING.md: what the networks compute and move, and what follows for accelerators, workers and buckets.

    python -m benchmarks.scaling

Nothing is measured here. The cost of a network is counted from its layers. The speeds of accelerators, cores and networks are the
constants below.
"""

import dataclasses
import math
from typing import Any

from absl import app

_HEIGHT, _WIDTH, _GENRES = 192, 128, 25
_NETWORKS = ("cnn", "resnet", "efficientnet_lite0", "efficientnet_v2_b0", "resnet50_v2")
_WORKERS = (2, 8, 32, 256)
_BATCH = 64  # Images per worker.

# A training step computes about three times the forward pass: forward, gradients for the inputs, gradients for the weights.
_PASSES = 3
# How often a step moves a convolution's output: written and read forward; read again and its gradient written and read backward.
_MOVES = 5
_BYTES = 2  # Bytes per value in bfloat16 or float16.

# Measured, see RESULTS.md: images per second that one of that machine's processors reads from shards, and bytes of a poster there.
_RATES = {"jpeg": 3_200, "raw": 11_700}
_SIZES = {"jpeg": 15_000, "raw": _HEIGHT * _WIDTH * 3}

# Assumed: latency of a message between two machines of a zone, in seconds.
_LATENCY = 50e-6


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """An accelerator as its data sheet describes it, in the smallest machine that Google Cloud offers with it. Not measured here.

    Attributes:
      tera_flops: dense 16-bit arithmetic, in 10^12 operations per second.
      gigabytes: memory bandwidth, in 10^9 bytes per second.
      memory: memory size, in 10^9 bytes.
      processors: vCPUs of the machine.
      gigabits: network bandwidth of the machine, in 10^9 bits per second.
    """

    name: str
    tera_flops: float
    gigabytes: float
    memory: float
    processors: int
    gigabits: float


_A100 = Accelerator("A100 40 GB, a2-highgpu-1g", 312, 1555, 40, 12, 24)
_ACCELERATORS = (
    Accelerator("T4, n1-standard-4", 65, 320, 16, 4, 10),
    Accelerator("L4, g2-standard-4", 121, 300, 24, 4, 10),
    _A100,
    Accelerator("H100 80 GB, a3-highgpu-1g", 989, 3350, 80, 26, 25),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
      parameters: number of trainable weights.
      flops: operations of the forward pass of one image; a multiplication and an addition count as two.
      moved: output values of the convolution, dense and pooling layers for one image, which must pass through memory even where
        everything else is fused.
      kept: output values of all layers for one image, the most that is kept for the backward pass.
      normalized: channels of each layer that normalizes by the statistics of the global batch.
    """

    parameters: int
    flops: int
    moved: int
    kept: int
    normalized: tuple[int, ...]


def cost(name: str) -> Cost:
    """Counts a network's cost from its layers."""
    from trainer.config import TrainConfig
    from trainer.model import networks
    from trainer.model.layers import BatchNormalization

    job = TrainConfig(data_dir="-", job_dir="-", model=name, augment="none")
    network = networks.build(job, genres=_GENRES, height=_HEIGHT, width=_WIDTH)
    flops = moved = kept = 0
    normalized = []
    for layer in _leaves(network):
        outputs = layer.output_shape
        if not isinstance(outputs, tuple):  # The output of an input layer.
            continue
        values = math.prod(outputs[1:])
        kept += values
        depthwise, kernel = getattr(layer, "depthwise_kernel", None), getattr(layer, "kernel", None)
        # Each output value sums over the kernel's window and, unless the layer is depthwise, over the input channels.
        if depthwise is not None:
            flops += 2 * values * math.prod(depthwise.shape[:2])
        elif kernel is not None:
            flops += 2 * values * math.prod(kernel.shape[:-1])
        if depthwise is not None or kernel is not None or "Pooling" in type(layer).__name__:
            moved += values
        if isinstance(layer, BatchNormalization):
            normalized.append(outputs[-1])
    parameters = sum(math.prod(weight.shape) for weight in network.trainable_variables)
    return Cost(parameters, flops, moved, kept, tuple(normalized))


def _leaves(network: Any) -> list[Any]:
    layers = []
    for layer in network.layers:
        layers += _leaves(layer) if hasattr(layer, "layers") else [layer]
    return layers


def ceiling(found: Cost, device: Accelerator) -> tuple[float, float]:
    """Returns the most images per second that arithmetic and memory bandwidth allow, in this order."""
    by_arithmetic = device.tera_flops * 1e12 / (_PASSES * found.flops)
    by_memory = device.gigabytes * 1e9 / (_MOVES * _BYTES * found.moved)
    return by_arithmetic, by_memory


def largest_batch(found: Cost, device: Accelerator) -> int:
    """Returns how many images' values fit into a device's memory for the backward pass, beside weights and optimizer."""
    return int((device.memory * 1e9 - 4 * 4 * found.parameters) / (_BYTES * found.kept))


def all_reduce(size: int, workers: int, gigabits: float, *, latency: float = _LATENCY) -> float:
    """Returns the seconds of an all-reduce of `size` bytes: around a ring for many bytes, over two trees for few.

    Sources: P. Patarasu, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009; P. Sanders, J.
    Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", 2009.
    """
    sending = 2 * size / (gigabits * 1e9 / 8)
    ring = sending * (workers - 1) / workers + 2 * (workers - 1) * latency
    trees = sending + 2 * math.log2(workers) * latency
    return min(ring, trees)


def exchange(found: Cost, workers: int, gigabits: float) -> tuple[float, float]:
    """Returns a step's seconds for exchanging the gradients, in one piece, and the statistics, two numbers a channel each way."""
    gradients = all_reduce(4 * found.parameters, workers, gigabits)
    return gradients, sum(2 * all_reduce(8 * channels, workers, gigabits) for channels in found.normalized)


def main(_: list[str]) -> None:
    """Prints the tables."""
    costs = {name: cost(name) for name in _NETWORKS}
    print("| network | parameters | bytes reduced per step | GFLOP per image | MB moved per image | layers normalized |")
    print("|---|---|---|---|---|---|")
    for name, found in costs.items():
        flops, megabytes = _PASSES * found.flops / 1e9, _MOVES * _BYTES * found.moved / 1e6
        cells = [
            f"{found.parameters:,}",
            f"{4 * found.parameters:,}",
            f"{flops:.2f}",
            f"{megabytes:.1f}",
            str(len(found.normalized)),
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |")

    print("\n| | network | by arithmetic | by memory | vCPUs that feed it, JPEG; raw | of | MB/s read, JPEG; raw | of |")
    print("|---|---|---|---|---|---|---|---|")
    for device in _ACCELERATORS:
        for name, found in costs.items():
            limits = ceiling(found, device)
            rate = min(limits)
            feeding = "; ".join(f"{rate / _RATES[encoding]:.1f}" for encoding in _RATES)
            reading = "; ".join(f"{rate * _SIZES[encoding] / 1e6:,.0f}" for encoding in _RATES)
            cells = [
                *(f"{limit:,.0f}" for limit in limits),
                feeding,
                str(device.processors),
                reading,
                f"{device.gigabits * 125:,.0f}",
            ]
            print(f"| {device.name} | `{name}` | " + " | ".join(cells) + " |")

    heads = " | ".join(f"{workers} workers" for workers in _WORKERS)
    print(f"\n| {_A100.name} | step of {_BATCH}, ms | the largest batch | {heads} |")
    print("|---|---|---|" + "---|" * len(_WORKERS))
    for name, found in costs.items():
        rate, largest = min(ceiling(found, _A100)), largest_batch(found, _A100)
        cells = [f"{_BATCH / rate * 1e3:.1f}", f"{largest:,}"]
        for workers in _WORKERS:
            parts = exchange(found, workers, _A100.gigabits)
            shares = " to ".join(f"{sum(parts) / (sum(parts) + batch / rate):.0%}" for batch in (largest, _BATCH))
            cells.append(f"{parts[0] * 1e3:.1f} + {parts[1] * 1e3:.1f} ms, {shares}")
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    app.run(main)
