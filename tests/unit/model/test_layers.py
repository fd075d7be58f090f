"""Batch normalization agrees with Keras's, and no gradient depends on an unspecified order of summation."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.graphs import operations
from trainer.config import TrainConfig
from trainer.model import layers, networks, objective
from trainer.model.backbones import BACKBONES
from trainer.model.efficientnet_lite import efficientnet_lite


def inputs():
    return tf.constant(np.random.default_rng(0).normal(2, 3, (6, 5, 4, 3)).astype(np.float32))


def trained(layer, x):
    """Outputs, gradients of x and of the weights, moving statistics and inference outputs after one step."""
    layer.build(x.shape)
    layer.gamma.assign([0.5, 1.0, 2.0])
    upstream = tf.random.stateless_normal(x.shape, [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
    gradients = tape.gradient(outputs, [x, layer.gamma, layer.beta], output_gradients=tf.cast(upstream, outputs.dtype))
    return [outputs, *gradients, layer.moving_mean.read_value(), layer.moving_variance.read_value(), layer(x, training=False)]


@pytest.fixture(params=[1, 2])
def replicas(request, monkeypatch):
    """Lets a layer compute as the only replica, and as one of several replicas whose batches are all the same here."""
    monkeypatch.setattr(layers, "_replicas", lambda: request.param)
    return request.param


def test_one_replica_alone_passes_over_its_inputs_once_and_one_of_several_twice(replicas):
    layer = layers.BatchNormalization()
    step = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.TensorSpec([6, 5, 4, 3]))
    fused = [node.op for node in operations(step.graph.as_graph_def()) if node.op.startswith("FusedBatchNorm")]
    assert len(fused) == replicas


def test_outside_a_replicas_function_a_layer_is_as_on_one_replica():
    layer = layers.BatchNormalization()
    alone = layer(inputs(), training=True)
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        np.testing.assert_allclose(layer(inputs(), training=True), alone, rtol=1e-5)


@pytest.mark.usefixtures("replicas")
def test_batch_normalization_agrees_with_that_of_keras():
    ours = trained(layers.BatchNormalization(momentum=0.9), inputs())
    keras_own = trained(keras.layers.BatchNormalization(momentum=0.9, synchronized=True), inputs())
    for one, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("replicas")
def test_batch_normalization_in_half_precision_keeps_its_statistics_in_float32():
    layer = layers.BatchNormalization(momentum=0.0, dtype=keras.mixed_precision.Policy("mixed_bfloat16"))
    x = tf.cast(inputs(), tf.bfloat16)
    outputs, gradient, *_, mean, _, _ = trained(layer, x)
    assert (outputs.dtype, gradient.dtype, mean.dtype) == (tf.bfloat16, tf.bfloat16, tf.float32)
    np.testing.assert_allclose(mean, tf.reduce_mean(tf.cast(x, tf.float32), (0, 1, 2)), rtol=1e-6)


def test_a_frozen_layer_uses_and_keeps_its_moving_statistics():
    layer = layers.BatchNormalization()
    layer.build([None, 5, 4, 3])
    layer.trainable = False
    np.testing.assert_allclose(layer(inputs(), training=True), inputs(), rtol=1e-3)
    assert (layer.moving_mean.numpy() == 0).all()


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize("name", ["cnn", "resnet", "efficientnet_lite0"])
def test_no_gradient_sums_more_than_two_terms(name, monkeypatch):
    """AddN adds three terms in an order that depends on which other ops run at the moment."""
    # Fewer blocks of each kind make the test faster.
    short = functools.partial(efficientnet_lite, width=0.25, depth=0.5)
    monkeypatch.setitem(BACKBONES, "efficientnet_lite0", dataclasses.replace(BACKBONES["efficientnet_lite0"], network=short))
    job = TrainConfig(data_dir="d", job_dir="j", model=name, batch_size=2)
    network = networks.build(job, genres=3, height=32, width=32)
    loss = objective.GenreLoss()
    optimizer = objective.optimizer(job)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step():
        features = {"image": tf.zeros([2, 32, 32, 3], tf.uint8), "position": tf.range(2, dtype=tf.int64)}
        with tf.GradientTape() as tape:
            value = loss(tf.zeros([2, 3]), network(features, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, network.trainable_variables), network.trainable_variables, strict=True))

    graph = step.get_concrete_function().graph.as_graph_def()
    nodes = operations(graph)
    sums = [len(node.input) for node in nodes if node.op == "AddN"]
    assert max(sums, default=0) <= 2
