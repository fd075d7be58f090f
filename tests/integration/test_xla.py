"""The steps of training and evaluation compile for a TPU, as far as this can be tested without one.

A TPU runs a step as one program, which XLA compiles for fixed shapes.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.support import drawn
from tests.support.graphs import operations
from trainer.config import TrainConfig
from trainer.dataset import training_order
from trainer.input import pipeline, stateless
from trainer.model import layers, networks, objective
from trainer.training import loop

BATCH, GENRES, HEIGHT, WIDTH = 4, 5, 48, 32
FEATURES = {
    "image": tf.TensorSpec((BATCH, HEIGHT, WIDTH, 3), tf.uint8),
    "position": tf.TensorSpec((BATCH,), tf.int64),
}
LABELS = tf.TensorSpec((BATCH, GENRES), tf.float32)


@pytest.fixture(autouse=True, scope="module")
def float32_afterwards():
    yield
    networks.build(TrainConfig(data_dir="d", job_dir="j"), genres=1, height=32, width=32)


def network_of(**choices):
    job = TrainConfig(
        data_dir="d", job_dir="j", augment="strong", dropout=0.3, precision="mixed_bfloat16", batch_size=BATCH, **choices
    )
    network = networks.build(job, genres=GENRES, height=HEIGHT, width=WIDTH)
    loop.compile_network(network, job, objective.GenreLoss())
    return network


def open_shapes(graph):
    """Returns the operations of a graph and of the functions that it calls that have an output of unknown size.

    The reserve space of fused batch normalization, and the zeros for its gradient, do not count: only a GPU's own kernel uses them,
    and in XLA they are empty.
    """
    definition = graph.as_graph_def(add_shapes=True)
    nodes = operations(definition)
    assert len(nodes) > 50
    return [
        f"{node.op} {node.name}"
        for node in nodes
        for output, shape in enumerate(node.attr["_output_shapes"].list.shape)
        if shape.unknown_rank or any(side.size < 0 for side in shape.dim)
        if (node.op, output) != ("FusedBatchNormV3", 5)
        and not (node.op == "ZerosLike" and re.search(r"FusedBatchNormV3:(reserve_space_3:0|5)$", node.input[0]))
    ]


# Every choice that changes a step, in few cases, because compiling takes long.
@pytest.mark.parametrize(
    ("model_name", "optimizer", "replicas"), [("cnn", "adam", 1), ("resnet", "adamw", 1), ("resnet", "adamw", 8)]
)
def test_a_step_of_training_and_of_evaluation_compiles_with_fixed_shapes(model_name, optimizer, replicas, monkeypatch):
    # Eight replicas normalize differently from one. Here their batches are all the same, which does not change the program.
    monkeypatch.setattr(layers, "_replicas", lambda: replicas)
    network = network_of(model=model_name, optimizer=optimizer)
    # Keras's own step: loss, gradients, optimizer and metrics.
    train = tf.function(lambda features, labels: network.train_step((features, labels)), jit_compile=True)
    evaluate = tf.function(lambda images: networks.logits(network, images), jit_compile=True)
    training_step = train.get_concrete_function(FEATURES, LABELS)
    evaluation_step = evaluate.get_concrete_function(FEATURES["image"])

    assert open_shapes(training_step.graph) == []
    assert open_shapes(evaluation_step.graph) == []
    assert evaluation_step.output_shapes == LABELS.shape
    assert training_step.output_shapes == dict.fromkeys(["loss", "accuracy", "precision", "recall"], tf.TensorShape([]))

    images = np.random.default_rng(0).integers(0, 256, FEATURES["image"].shape, np.uint8)
    features = {"image": tf.constant(images), "position": tf.range(BATCH, dtype=tf.int64)}
    labels = tf.constant(np.eye(BATCH, GENRES), tf.float32)
    losses = []
    for _ in range(5):
        network.reset_metrics()
        losses.append(float(train(features, labels)["loss"]))
    assert losses[-1] < losses[0], "it learns its only batch"
    assert train.experimental_get_tracing_count() == 1
    np.testing.assert_allclose(evaluate(images), networks.logits(network, images), atol=0.05)


def test_augmentation_and_dropout_draw_the_same_numbers_compiled_or_not():
    position = tf.range(5 * BATCH, 6 * BATCH, dtype=tf.int64)

    def draw(position):
        return stateless.uniform(position, 7, seed=2**32 - 1, stream=3, batch_size=BATCH)

    np.testing.assert_array_equal(draw(position), tf.function(draw, jit_compile=True)(position))


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_batches_have_fixed_shapes(tmp_path, encoding):
    # Neither 30 nor 10 is a multiple of the batch.
    dataset = drawn.dataset(tmp_path, train=30, validation=10, test=3, shard_count=2, encoding=encoding)
    order = training_order.create(dataset, batch_size=2 * BATCH, open_shards=2, shuffle_window=4, seed=0)
    image, numbers = tf.TensorSpec((BATCH, 16, 16, 3), tf.uint8), tf.TensorSpec((BATCH,), tf.int64)
    features, labels = {"image": image, "position": numbers}, tf.TensorSpec((BATCH, len(drawn.GENRES)), tf.float32)

    trained = pipeline.training_dataset(dataset, order, replica_batch=BATCH, first_step=1, epochs=2)
    assert trained.element_spec == (features, labels)
    evaluated = pipeline.evaluation_dataset(dataset, "validation", replica_batch=BATCH, replicas=2)
    assert evaluated.element_spec == (image, numbers)
    assert pipeline.synthetic_dataset(dataset, replica_batch=BATCH).element_spec == (features, labels)
    # The last batch has the promised shape, too.
    for batches in (trained, evaluated):
        assert {batch[0]["image"].shape if isinstance(batch[0], dict) else batch[0].shape for batch in batches} == {image.shape}
