"""Batch normalization agrees with Keras's, on one replica and on several."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.graphs import operations
from trainer.model import layers


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
