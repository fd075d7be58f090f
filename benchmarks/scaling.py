"""The figures of SCALING.md: what the networks compute and move, and what follows for accelerators, workers and buckets.

    python -m benchmarks.scaling

Nothing is measured here. What a network computes is counted from its layers; what an accelerator, a core or a network can do are
the constants below, each with where it is from.
"""

import dataclasses
import math

from absl import app

_HEIGHT, _WIDTH, _GENRES = 192, 128, 25
_NETWORKS = ("cnn", "resnet", "efficientnet_lite0", "efficientnet_v2_b0", "resnet50_v2")

# A training step computes what the forward pass does about three times: forwards, and back to the inputs and to the weights.
_PASSES = 3
# How often a step moves each activation: written and read forwards, read again and its gradient written and read backwards.
_MOVES = 5

_JPEG_BYTES = 15_000  # A poster of 192 × 128 at quality 95, measured on real ones.
_CORE_RATE = 3_500  # Images a second that a core decodes from such shards: measured, RESULTS.md.


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What a maker's data sheet says of a device: not measured here.

    Attributes:
      tera_flops: dense, in the precision of `precision`, 10^12 a second.
      gigabytes: of memory traffic a second, 10^9.
      memory: 10^9 bytes.
      cores: of the smallest machine that is rented with one.
      network: gigabits a second of that machine.
    """

    name: str
    precision: str
    tera_flops: float
    gigabytes: float
    memory: float
    cores: int
    network: float


_ACCELERATORS = (
    Accelerator("T4, n1-standard-4", "float16", 65, 320, 16, 4, 10),
    Accelerator("L4, g2-standard-4", "bfloat16", 121, 300, 24, 4, 10),
    Accelerator("A100 40 GB, a2-highgpu-1g", "bfloat16", 312, 1555, 40, 12, 24),
    Accelerator("H100 80 GB, a3-highgpu-1g", "bfloat16", 989, 3350, 80, 26, 25),
    Accelerator("TPU v5e, ct5lp-hightpu-1t", "bfloat16", 197, 819, 16, 24, 10),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
      parameters: its trainable weights.
      flops: of the forward pass of one picture; a multiplication and an addition are two.
      activations: values that its layers put out for one picture.
    """

    parameters: int
    flops: int
    activations: int


def cost(name: str) -> Cost:
    """Counts a network's cost from its layers."""
    from trainer import model
    from trainer.config import TrainConfig

    job = TrainConfig(data_dir="-", job_dir="-", model=name, augment="none")
    network = model.build(job, genres=_GENRES, height=_HEIGHT, width=_WIDTH)
    flops = activations = 0
    for layer in _leaves(network):
        outputs = layer.output_shape
        if not isinstance(outputs, tuple) or len(outputs) < 2:
            continue
        values = math.prod(outputs[1:])
        activations += values
        kernel = getattr(layer, "depthwise_kernel", None)
        if kernel is not None:
            flops += 2 * values * math.prod(kernel.shape[:2])
        elif getattr(layer, "kernel", None) is not None:
            # Each value put out is a sum over the kernel's window and its channels put in.
            flops += 2 * values * math.prod(layer.kernel.shape[:-1])
    parameters = sum(math.prod(weight.shape) for weight in network.trainable_variables)
    return Cost(parameters, flops, activations)


def _leaves(network: object) -> list:
    layers = []
    for layer in network.layers:  # type: ignore[attr-defined]
        layers += _leaves(layer) if hasattr(layer, "layers") else [layer]
    return layers


def ceiling(found: Cost, device: Accelerator) -> tuple[float, float]:
    """Images a second at most, by arithmetic and by memory traffic in a precision of two bytes."""
    by_arithmetic = device.tera_flops * 1e12 / (_PASSES * found.flops)
    by_memory = device.gigabytes * 1e9 / (_MOVES * 2 * found.activations)
    return by_arithmetic, by_memory


def all_reduce(found: Cost, workers: int, gigabits: float, latency: float = 50e-6) -> float:
    """Seconds of a ring all-reduce of float32 gradients (Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms")."""
    bytes_sent = 2 * (workers - 1) / workers * 4 * found.parameters
    return bytes_sent / (gigabits * 1e9 / 8) + 2 * (workers - 1) * latency


def main(_: list[str]) -> None:
    """Prints the tables."""
    costs = {name: cost(name) for name in _NETWORKS}
    heads = "parameters | bytes reduced a step | GFLOP a picture, trained | activations, MB in float32"
    print(f"| network, {_WIDTH} × {_HEIGHT} | {heads} |")
    print("|---|---|---|---|---|")
    for name, found in costs.items():
        flops, megabytes = _PASSES * found.flops / 1e9, 4 * found.activations / 1e6
        print(f"| `{name}` | {found.parameters:,} | {4 * found.parameters:,} | {flops:.2f} | {megabytes:.1f} |")

    print("\n| | network | by arithmetic | by memory | cores that decode for it | it has | bucket, MB/s |")
    print("|---|---|---|---|---|---|---|")
    for device in _ACCELERATORS:
        for name, found in costs.items():
            limits = ceiling(found, device)
            rate = min(limits)
            cells = [f"{limit:,.0f}" for limit in limits]
            cells += [f"{rate / _CORE_RATE:.1f}", str(device.cores), f"{rate * _JPEG_BYTES / 1e6:,.0f}"]
            print(f"| {device.name}, {device.precision} | `{name}` | " + " | ".join(cells) + " |")

    device, counts = _ACCELERATORS[2], (2, 8, 32, 256)
    heads = " | ".join(f"{workers} workers" for workers in counts)
    print(f"\n| network, {device.name} at its ceiling, batch 64 a worker | step, ms | {heads} |")
    print("|---|---|---|---|---|---|")
    for name, found in costs.items():
        step = 64 / min(ceiling(found, device))
        shares = []
        for workers in counts:
            seconds = all_reduce(found, workers, device.network)
            shares.append(f"{seconds * 1e3:.1f} ms, {seconds / (seconds + step):.0%}")
        print(f"| `{name}` | {step * 1e3:.1f} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    app.run(main)
