"""What a TPU would do with the networks, as far as it can be known without one: they compile under XLA, whole."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import model, objective
from trainer.config import TrainConfig

BATCH = 4


@pytest.fixture(autouse=True, scope="module")
def float32_afterwards():
    yield
    model.build(TrainConfig(data_dir="d", job_dir="j"), genres=1, height=32, width=32)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_training_and_inference_compile_under_xla(name):
    config = TrainConfig(data_dir="d", job_dir="j", model=name, augment="strong", precision="mixed_bfloat16", batch_size=BATCH)
    network = model.build(config, genres=5, height=48, width=32)
    loss_of, metrics = objective.loss(config, dict.fromkeys("abcde", 3), 12), objective.training_metrics()
    optimizer = objective.optimizer(config)
    optimizer.build(network.trainable_variables)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 48, 32, 3), np.uint8)
    features = {"image": tf.constant(images), "position": tf.range(BATCH, dtype=tf.int64)}
    labels = tf.constant(np.eye(BATCH, 5), tf.float32)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            logits = network(features, training=True)
            loss = loss_of(labels, logits)
        optimizer.apply_gradients(zip(tape.gradient(loss, network.trainable_variables), network.trainable_variables, strict=True))
        for metric in metrics:
            metric.update_state(labels, logits)
        return loss

    losses = [float(step()) for _ in range(5)]
    assert losses[-1] < losses[0], "it learns its only batch"
    compiled = tf.function(lambda pictures: model.logits(network, pictures), jit_compile=True)(images)
    np.testing.assert_allclose(compiled, model.logits(network, images), atol=0.05)
