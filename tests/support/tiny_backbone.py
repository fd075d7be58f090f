"""A backbone with all kinds of layers of the large ones, but much faster, and a network that trains with it."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model import backbones, networks, objective, pretrained
from trainer.training import loop

BATCH, SIDE = 4, 32
FEATURES = {
    "image": tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)),
    "position": tf.range(BATCH, dtype=tf.int64),
}
LABELS = tf.constant(np.eye(BATCH, 3), tf.float32)


def tiny(image: tf.Tensor) -> keras.Model:
    """Returns a network without its head, for a symbolic input."""
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(image)
    x = keras.layers.BatchNormalization(name="stem_norm")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", use_bias=False, name="down")(x)
    x = keras.layers.BatchNormalization(name="down_norm")(x)
    x = keras.layers.ReLU(name="down_relu")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    y = keras.layers.BatchNormalization(name="depthwise_norm")(y)
    y = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop")(y)
    return keras.Model(image, keras.layers.Add(name="add")([x, y]))


def use_tiny(patch: pytest.MonkeyPatch) -> None:
    """Replaces efficientnet_lite0 with the tiny backbone."""
    patch.setitem(backbones.BACKBONES, "efficientnet_lite0", backbones.Backbone(tiny, scale=255 / 128, offset=-127 / 128))


def config(weights: object = "none", **changes: Any) -> TrainConfig:
    """Returns a job with the tiny backbone."""
    values: dict[str, Any] = {"model": "efficientnet_lite0", "batch_size": BATCH, "augment": "none", "dropout": 0.0}
    return TrainConfig(data_dir="d", job_dir="j", weights=str(weights), **(values | changes))


def as_if_trained(network: keras.Model) -> keras.Model:
    """Changes statistics, scales and offsets, so that they differ from a new network's."""
    draw = np.random.default_rng(0)
    for weight in network.weights:
        if "kernel" not in weight.name:
            weight.assign(weight + draw.uniform(0.05, 0.1, weight.shape))
    return network


def about_to_learn(job: TrainConfig) -> Any:
    """Returns a compiled network with its pretrained weights."""
    network = networks.build(job, genres=3, height=SIDE, width=SIDE)
    loop.compile_network(network, job, objective.GenreLoss())
    assert network.pretrained
    network.pretrained.backbone.set_weights(pretrained.load(job))
    network.step = tf.function(lambda: network.train_step((FEATURES, LABELS)))
    return network
