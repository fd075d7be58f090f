"""No gradient depends on the order in which the operations of a step run."""

import dataclasses
import functools

import pytest
import tensorflow as tf

from tests.support.graphs import operations
from trainer.config import TrainConfig
from trainer.model import layers, networks, objective
from trainer.model.backbones import BACKBONES
from trainer.model.efficientnet_lite import efficientnet_lite


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", ["cnn", "resnet", "efficientnet_lite0"])
def test_no_gradient_sums_more_than_two_terms(name, replicas, monkeypatch):
    """AddN adds three terms in an order that depends on which other ops run at the moment."""
    monkeypatch.setattr(layers, "_replicas", lambda: replicas)
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
