"""Speed of a training step: this package's networks, and the same layers in PyTorch and in Keras 3.

    python -m benchmarks.step --model=cnn
    python -m benchmarks.step --model=resnet

All train on one batch of random images, with Adam and sigmoid cross-entropy, without augmentation, on all cores or on the GPU if
there is one. This package's networks and Keras's run through `fit`. This package's `cnn` applies ReLU after pooling, which gives
the same values as the usual order of the peers. This package also draws dropout by film and computes its training metrics. The work
that trainer.task does on the host is excluded here: benchmarks/overhead.py measures it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.lib import affinity, comparison
from benchmarks.lib.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "cnn", ("cnn", "resnet"), "The network.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Pictures a step.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps that are timed at once.")

_HEIGHT, _WIDTH, _GENRES = 192, 128, 25
_RATE, _DROPOUT = 1e-3, 0.3
_TORCH, _KERAS = "PyTorch, channels last", "Keras 3"
_CNN_CHANNELS = (32, 64, 96, 128)
_RESNET_CHANNELS = (32, 64, 128, 256)


def ours(model: str, batch: int, steps: int) -> Callable[[], float]:
    """Returns what measures the step of trainer.task."""
    from trainer.config import TrainConfig
    from trainer.model import networks, objective
    from trainer.training import loop

    job = TrainConfig(data_dir="-", job_dir="-", model=model, batch_size=batch, augment="none", optimizer="adam", dropout=_DROPOUT)
    network = networks.build(job, genres=_GENRES, height=_HEIGHT, width=_WIDTH)
    loop.compile_network(network, job, objective.GenreLoss())
    images, labels = _batch(batch)
    return _fit(network, ({"image": images, "position": np.arange(batch)}, labels), batch, steps)


def keras_3(model: str, batch: int, steps: int) -> Callable[[], float]:
    """Returns what measures Keras 3 on TensorFlow with default settings."""
    import keras  # noqa: TID251, as a peer

    layers = keras.layers

    def cnn(x: Any) -> Any:
        for channels in _CNN_CHANNELS:
            x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
            x = layers.SpatialDropout2D(_DROPOUT / 4)(layers.MaxPooling2D()(x))
        return layers.Dropout(_DROPOUT)(layers.Dense(256, activation="relu")(layers.Flatten()(x)))

    def normalized(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    def resnet(x: Any) -> Any:
        x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(x)
        for stage, channels in enumerate(_RESNET_CHANNELS):
            strides = 2 if stage else 1
            residual, shortcut = normalized(x), x
            if strides > 1:
                shortcut = layers.AveragePooling2D(2, padding="same")(residual)
                shortcut = layers.Conv2D(channels, 1, use_bias=False)(shortcut)
            residual = layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False)(residual)
            residual = layers.Conv2D(channels, 3, padding="same", use_bias=False)(normalized(residual))
            x = layers.Add()([shortcut, residual])
        return layers.Dropout(_DROPOUT)(layers.GlobalAveragePooling2D()(normalized(x)))

    image = keras.Input((_HEIGHT, _WIDTH, 3), dtype="uint8")
    body = {"cnn": cnn, "resnet": resnet}[model]
    network = keras.Model(image, layers.Dense(_GENRES)(body(layers.Rescaling(1 / 127.5, offset=-1)(image))))
    network.compile(keras.optimizers.Adam(_RATE), keras.losses.BinaryCrossentropy(from_logits=True))
    return _fit(network, _batch(batch), batch, steps)


def _fit(network: Any, batch: Any, size: int, steps: int) -> Callable[[], float]:
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # It can delay the iterator's end, which is not part of a step: see trainer.input.pipeline.
    data = tf.data.Dataset.from_tensors(batch).cache().repeat().prefetch(2).with_options(options)
    return comparison.rate(lambda: network.fit(data, steps_per_epoch=steps, verbose=0), size * steps)


def torch_step(model: str, batch: int, steps: int) -> Callable[[], float]:
    """Returns what measures eager PyTorch, with channels last."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Residual(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
            self.conv_1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            self.conv_2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False)) if stride > 1 else None

        def forward(self, x: Any) -> Any:
            residual = functional.relu(self.norm_1(x))
            shortcut = self.shortcut(residual) if self.shortcut else x
            return shortcut + self.conv_2(functional.relu(self.norm_2(self.conv_1(residual))))

    def cnn() -> Iterator[nn.Module]:
        before = 3
        for channels in _CNN_CHANNELS:
            yield from (nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(_DROPOUT / 4))
            before = channels
        yield from (nn.Flatten(), nn.Linear(before * (_HEIGHT // 16) * (_WIDTH // 16), 256), nn.ReLU(), nn.Dropout(_DROPOUT))
        yield nn.Linear(256, _GENRES)

    def resnet() -> Iterator[nn.Module]:
        yield nn.Conv2d(3, 32, 3, 2, padding=1, bias=False)
        before = 32
        for stage, channels in enumerate(_RESNET_CHANNELS):
            yield Residual(before, channels, 2 if stage else 1)
            before = channels
        yield from (nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT))
        yield nn.Linear(before, _GENRES)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(affinity.allowed_cores()))
    torch.set_float32_matmul_precision("high")  # As TensorFlow does on a GPU.
    torch.backends.cudnn.benchmark = True
    network = nn.Sequential(*{"cnn": cnn, "resnet": resnet}[model]()).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), _RATE, fused=True)
    images, labels = map(torch.from_numpy, _batch(batch))
    images = images.permute(0, 3, 1, 2)  # The layout in memory stays channels last.

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            x = images.to(device).to(torch.float32).mul_(1 / 127.5).sub_(1)
            loss = functional.binary_cross_entropy_with_logits(network(x), labels.to(device))
            loss.backward()
            optimizer.step()
        loss.item()  # Waits for the device.

    return comparison.rate(run, batch * steps)


def _batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (size, _HEIGHT, _WIDTH, 3), np.uint8)
    return images, random.integers(0, 2, (size, _GENRES)).astype(np.float32)


def _check_same_device() -> None:
    import tensorflow as tf
    import torch

    if bool(tf.config.list_physical_devices("GPU")) != torch.cuda.is_available():
        raise RuntimeError("one of TensorFlow and PyTorch sees a GPU and the other does not: install builds for the same device")


def main(_: list[str]) -> None:
    """Prints the comparison."""
    arguments: Sequence[object] = (_MODEL.value, _BATCH.value, _STEPS.value)
    makers = {OURS: ours, _TORCH: torch_step, _KERAS: keras_3}
    _check_same_device()
    with comparison.apart(*((make, arguments) for make in makers.values())) as measures:
        found = comparison.in_turn(dict(zip(makers, measures, strict=True)))
    title = f"A training step of {_MODEL.value}, {_HEIGHT} × {_WIDTH}, batch {_BATCH.value}"
    comparison.report(title, "images a second", found, [Goal((_TORCH,), least=1.5), Goal((_KERAS,), least=1.1)])


if __name__ == "__main__":
    app.run(main)
