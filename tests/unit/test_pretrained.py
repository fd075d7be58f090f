"""Networks that begin with weights of others: what goes in, what stays, and how fast the rest learns."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.graphs import operations
from trainer import backbones, fine_tuning, model, objective, pretrained, training
from trainer.config import TrainConfig
from trainer.errors import UserError

BATCH, SIDE = 4, 32
FEATURES = {
    "image": tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)),
    "position": tf.range(BATCH, dtype=tf.int64),
}
LABELS = tf.constant(np.eye(BATCH, 3), tf.float32)


def tiny(picture):
    """A network with all that the large ones have, in hundredths of their time."""
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(picture)
    x = keras.layers.BatchNormalization(name="stem_norm")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    y = keras.layers.BatchNormalization(name="depthwise_norm")(y)
    y = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop")(y)
    return keras.Model(picture, keras.layers.Add(name="add")([x, y]))


@pytest.fixture(autouse=True, scope="module")
def backbone():
    with pytest.MonkeyPatch.context() as patch:
        small = backbones.Backbone(tiny, scale=255 / 128, offset=-127 / 128)
        patch.setitem(backbones.BACKBONES, "efficientnet_lite0", small)
        yield small


def config(weights: object = "none", **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"model": "efficientnet_lite0", "batch_size": BATCH, "augment": "none", "dropout": 0.0}
    return TrainConfig(data_dir="d", job_dir="j", weights=str(weights), **(values | changes))


@pytest.fixture(scope="module")
def original(backbone):
    """A trained network: its statistics, scales and offsets are not those of a new one."""
    network = tiny(keras.Input((SIDE, SIDE, 3)))
    draw = np.random.default_rng(0)
    for weight in network.weights:
        if "kernel" not in weight.name:
            weight.assign(weight + draw.uniform(0.05, 0.1, weight.shape))
    return network


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.weights.h5"
    original.save_weights(path)
    return path


@pytest.fixture(scope="module")
def begun(file):
    """A network about to learn."""
    job = config(file)
    network = model.build(job, genres=3, height=SIDE, width=SIDE)
    training.compile_network(network, job, objective.loss(job, dict.fromkeys("abc", 1), 3))
    assert network.pretrained
    network.pretrained.backbone.set_weights(pretrained.load(job))
    network.step = tf.function(lambda: network.train_step((FEATURES, LABELS)))
    return network


def moved(network, *, share, rate):
    """How far one step at a share of a rate moves each weight at most, and which statistics it changes."""
    before = {weight.ref(): weight.numpy() for weight in network.weights}
    network.optimizer.learning_rate = rate
    network.pretrained.share.assign(share)
    network.step()
    differences = {weight.ref(): np.abs(weight.numpy() - before[weight.ref()]).max() for weight in network.weights}
    backbone = network.pretrained.backbone
    learning, still = (
        [differences[weight.ref()] for weight in weights]
        for weights in (backbone.trainable_weights, backbone.non_trainable_weights)
    )
    return np.array(learning), np.array(still), differences[network.get_layer("genres").kernel.ref()]


def test_the_weights_of_a_file_go_in(original, begun):
    features = keras.Model(begun.inputs, begun.pretrained.backbone.get_output_at(-1))(FEATURES, training=True)
    pictures = (tf.cast(FEATURES["image"], tf.float32) - 127) / 128
    np.testing.assert_allclose(features, original(pictures, training=False), atol=1e-4)
    assert np.ptp(features) > 0.01


def test_first_the_head_alone_learns_then_the_rest_more_slowly_and_statistics_stay(begun):
    learning, still, head = moved(begun, share=0.0, rate=1e-3)
    assert (learning == 0).all()
    assert (still == 0).all()
    assert head > 1e-4
    # Adam's first step of a weight that has been still is about 0.3 of the rate, whatever its gradient is.
    for share in (1.0, 0.1):
        for slot in begun.optimizer.variables[1:]:
            if slot.name not in ("learning_rate", "iteration"):
                slot.assign(tf.zeros_like(slot))
        learning, still, head = moved(begun, share=share, rate=1e-3)
        np.testing.assert_allclose(learning / share, np.full(len(learning), head), rtol=0.2)
        assert (still == 0).all()


def test_no_gradient_is_a_sum_of_more_than_two(begun):
    """See test_layers.py."""
    graph = begun.step.get_concrete_function().graph.as_graph_def()
    nodes = operations(graph)
    sums = [len(node.input) for node in nodes if node.op == "AddN"]
    assert sums
    assert max(sums) <= 2


def test_the_share_is_nothing_at_first_then_rises_over_an_epoch():
    share = fine_tuning.share(config("a.weights.h5", freeze_epochs=1.5, backbone_rate=0.2), steps_per_epoch=10)
    assert [share(step) for step in (0, 14)] == [0, 0]
    assert [share(step) for step in (15, 19, 24, 25, 999)] == pytest.approx([0.02, 0.1, 0.2, 0.2, 0.2])


def test_weights_of_others_do_not_decay(begun):
    job = config("a.weights.h5", optimizer="adamw", weight_decay=0.5)
    optimizer = objective.optimizer(job, begun.pretrained)
    kernel, head = begun.pretrained.backbone.get_layer("stem").kernel, tf.Variable([1.0], name="genres/kernel")
    before = kernel.numpy()
    optimizer.learning_rate = 1.0
    optimizer.apply_gradients([(tf.zeros_like(kernel), kernel), (tf.zeros(1), head)])
    assert (kernel.numpy() == before).all()
    assert head.numpy() == pytest.approx(0.5)


def test_without_weights_its_statistics_learn_too():
    network = model.build(config(), genres=3, height=SIDE, width=SIDE)
    mean = network.get_layer("backbone").get_layer("stem_norm").moving_mean
    first, second = (network(FEATURES, training=True) for _ in range(2))
    assert network.pretrained is None
    assert (mean.numpy() != 0).any()
    np.testing.assert_array_equal(first, second, err_msg="blocks are dropped")


def test_a_finished_jobs_network_needs_no_file(begun):
    again = model.build(config("gone.weights.h5"), genres=3, height=SIDE, width=SIDE)
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in begun.weights]


def test_files_that_hold_no_such_weights_are_refused_in_one_line(file, tmp_path):
    def refusal(path, **changes):
        with pytest.raises(UserError, match=r"^--weights=") as error:
            pretrained.load(config(path, **changes))
        assert "\n" not in str(error.value)
        return str(error.value)

    cut, other, folder = (tmp_path / f"{name}.weights.h5" for name in ("cut", "other", "folder"))
    cut.write_bytes(file.read_bytes()[:5000])
    keras.Sequential([keras.layers.Conv2D(1, 3, input_shape=(8, 8, 3))]).save_weights(other)
    folder.mkdir()
    assert "does not hold the weights of efficientnet_lite0" in refusal(cut)
    assert "does not hold the weights of efficientnet_lite0" in refusal(other)
    assert "cannot be read" in refusal(folder)
    assert "no such file" in refusal(tmp_path / "none.weights.h5")
    assert "s3://" in refusal("s3://bucket/some.weights.h5")


def test_a_download_that_fails_is_told_in_one_line(monkeypatch):
    def fails(picture):
        raise Exception("URL fetch failure on https://example.com/a.h5: None\n -- timed out")

    monkeypatch.setitem(backbones.BACKBONES, "resnet50_v2", backbones.Backbone(fails, 2, -1, downloaded=fails))
    with pytest.raises(UserError, match=r"^--weights=imagenet: the weights of resnet50_v2 .*timed out.*name a file$"):
        pretrained.load(config("imagenet", model="resnet50_v2"))


def test_efficientnet_lite_is_as_large_as_published():
    lite = backbones.BACKBONES["efficientnet_lite2"].build(48, 32)
    assert lite.output_shape == (None, 2, 1, 1280)
    # 6.09 million with its head of 1280 x 1000 weights and 1000 offsets.
    trained = sum(weight.shape.num_elements() for weight in lite.trainable_weights)
    assert (trained + 1281 * 1000) / 1e6 == pytest.approx(6.09, abs=0.005)
