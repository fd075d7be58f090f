"""Networks that start with pretrained weights: which are loaded, which stay, and how fast the others learn."""

import errno
import http.client
import re
import ssl
import sys
import urllib.error

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from etils import epath

from tests.support.graphs import operations
from tests.support.tiny_backbone import FEATURES, SIDE, about_to_learn, as_if_trained, config, tiny, use_tiny
from trainer import config as configuration
from trainer.errors import LostService, UserError
from trainer.model import backbones, fine_tuning, networks, objective, pretrained
from trainer.training import checkpoints, loop

LITE0 = backbones.BACKBONES["efficientnet_lite0"]


@pytest.fixture(autouse=True, scope="module")
def backbone():
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        yield


@pytest.fixture(scope="module")
def original():
    return as_if_trained(tiny(keras.Input((SIDE, SIDE, 3))))


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.weights.h5"
    original.save_weights(path)
    return path


@pytest.fixture(scope="module")
def begun(file):
    return about_to_learn(config(file))


def moved(network, *, multiplier, rate):
    """Largest changes by one step: of the backbone's weights that learn, of its others, and of the head's kernel."""
    before = {weight.ref(): weight.numpy() for weight in network.weights}
    network.optimizer.learning_rate = rate
    network.pretrained.multiplier.assign(multiplier)
    network.step()
    differences = {weight.ref(): np.abs(weight.numpy() - before[weight.ref()]).max() for weight in network.weights}
    backbone = network.pretrained.backbone
    learning, still = (
        [differences[weight.ref()] for weight in weights]
        for weights in (backbone.trainable_weights, backbone.non_trainable_weights)
    )
    return np.array(learning), np.array(still), differences[network.get_layer("genres").kernel.ref()]


def test_the_weights_of_a_file_are_loaded(original, begun):
    features = keras.Model(begun.inputs, begun.pretrained.backbone.get_output_at(-1))(FEATURES, training=True)
    images = (tf.cast(FEATURES["image"], tf.float32) - 127) / 128
    np.testing.assert_allclose(features, original(images, training=False), atol=1e-4)
    assert np.ptp(features) > 0.01


def test_the_head_starts_with_zeros(file):
    kernel = about_to_learn(config(file)).get_layer("genres").kernel
    assert kernel.shape[0] > 1
    assert (kernel.numpy() == 0).all()


def test_first_the_head_alone_learns_then_the_rest_more_slowly_and_statistics_stay(begun):
    learning, still, head = moved(begun, multiplier=0.0, rate=1e-3)
    assert (learning == 0).all()
    assert (still == 0).all()
    assert head > 1e-4
    # Adam's first step of a weight that was frozen is about 0.3 of the rate, whatever its gradient is.
    for multiplier in (1.0, 0.1):
        for slot in begun.optimizer.variables[1:]:
            if slot.name not in ("learning_rate", "iteration"):
                slot.assign(tf.zeros_like(slot))
        learning, still, head = moved(begun, multiplier=multiplier, rate=1e-3)
        np.testing.assert_allclose(learning / multiplier, np.full(len(learning), head), rtol=0.2)
        assert (still == 0).all()


def test_no_gradient_sums_more_than_two_terms(begun):
    """See test_layers.py."""
    graph = begun.step.get_concrete_function().graph.as_graph_def()
    nodes = operations(graph)
    sums = [len(node.input) for node in nodes if node.op == "AddN"]
    assert sums
    assert max(sums) <= 2


def test_the_multiplier_is_0_at_first_then_rises_over_an_epoch():
    multiplier = fine_tuning.multiplier(config("a.weights.h5", freeze_epochs=1.5, backbone_rate=0.2), steps_per_epoch=10)
    assert [multiplier(step) for step in (0, 14)] == [0, 0]
    assert [multiplier(step) for step in (15, 19, 24, 25, 999)] == pytest.approx([0.02, 0.1, 0.2, 0.2, 0.2])


def test_pretrained_weights_do_not_decay(begun):
    job = config("a.weights.h5", optimizer="adamw", weight_decay=0.5)
    optimizer = objective.optimizer(job, begun.pretrained)
    kernel, head = begun.pretrained.backbone.get_layer("down").kernel, tf.Variable([1.0], name="genres/kernel")
    before = kernel.numpy()
    optimizer.learning_rate = 1.0
    optimizer.apply_gradients([(tf.zeros_like(kernel), kernel), (tf.zeros(1), head)])
    assert (kernel.numpy() == before).all()
    assert head.numpy() == pytest.approx(0.5)


def test_without_weights_its_statistics_learn_too():
    network = networks.build(config(), genres=3, height=SIDE, width=SIDE)
    mean = network.get_layer("backbone").get_layer("stem_norm").moving_mean
    first, second = (network(FEATURES, training=True) for _ in range(2))
    assert network.pretrained is None
    assert all(layer.trainable for layer in network.get_layer("backbone").layers)
    assert (mean.numpy() != 0).any()
    np.testing.assert_array_equal(first, second, err_msg="blocks are dropped")


def test_the_early_layers_of_a_pretrained_network_stay():
    lite = LITE0.network(keras.Input((64, 64, 3)))
    layers = [layer for layer in lite.layers if layer.weights]
    assert all(layer.trainable for layer in layers)
    fine_tuning.freeze_early_layers(lite)
    frozen = [layer.name for layer in layers if not layer.trainable]
    # All up to the layer that makes the feature maps an eighth as high as the image.
    assert frozen == [layer.name for layer in layers[: len(frozen)]]
    assert frozen[-2:] == ["block_3_expand", "block_3_expand_norm"]
    assert (len(frozen), len(layers)) == (20, 98)


def test_no_gradient_of_a_frozen_layer_is_computed(begun):
    graph = begun.step.get_concrete_function().graph.as_graph_def()
    convolutions = [layer for layer in begun.pretrained.backbone.layers if "kernel" in "".join(w.name for w in layer.weights)]
    assert [layer.name for layer in convolutions if not layer.trainable] == ["stem"]
    # In each of the optimizer's two branches.
    gradients = [node for node in operations(graph) if node.op.endswith("BackpropFilter")]
    assert len(gradients) == 2 * sum(layer.trainable for layer in convolutions)


def test_a_backup_holds_frozen_weights_too(begun, tmp_path):
    saved = checkpoints.TrainingState(begun, epath.Path(tmp_path), writes=True, check=lambda: None)
    saved.progress.step = 1
    saved.back_up()
    job = config("gone.weights.h5")
    again = networks.build(job, genres=3, height=SIDE, width=SIDE)
    loop.compile_network(again, job, objective.GenreLoss())
    assert checkpoints.TrainingState(again, epath.Path(tmp_path), writes=True, check=lambda: None).restore()
    for one, other in zip(begun.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_in_half_precision_the_head_and_the_rest_learn(file):
    network = about_to_learn(config(file, precision="mixed_float16"))
    keras.mixed_precision.set_global_policy("float32")
    assert isinstance(network.optimizer, keras.mixed_precision.LossScaleOptimizer)
    learning, still, head = moved(network, multiplier=0.0, rate=1e-3)
    assert head > 1e-4
    assert (learning == 0).all()
    learning, still, _ = moved(network, multiplier=1.0, rate=1e-3)
    assert (learning > 1e-5).all()
    assert (still == 0).all()


@pytest.fixture
def shortened(monkeypatch):
    """Keras's networks with few and narrow blocks, because building the whole ones takes a dozen seconds."""
    blocks = sys.modules[keras.applications.EfficientNetV2B0.__module__].DEFAULT_BLOCKS_ARGS
    # One of each kind.
    kinds = [blocks["efficientnetv2-b0"][stage] | {"num_repeat": 1} for stage in (0, 3)]
    monkeypatch.setitem(blocks, "efficientnetv2-b0", kinds)
    resnet = sys.modules[keras.applications.ResNet50.__module__]
    stack = resnet.stack2

    def narrow(x, filters, blocks, *, name, **options):
        return stack(x, filters // 16, 2, name=name) if name == "conv2" else x

    monkeypatch.setattr(resnet, "stack2", narrow)


@pytest.mark.parametrize(
    ("name", "application", "preprocess"),
    [
        # Its preprocessing is part of the network.
        ("efficientnet_v2_b0", keras.applications.EfficientNetV2B0, lambda images: images),
        ("resnet50_v2", keras.applications.ResNet50V2, keras.applications.resnet_v2.preprocess_input),
    ],
)
def test_with_a_file_that_keras_saved_the_features_of_an_image_are_the_same(name, application, preprocess, shortened, tmp_path):
    theirs = as_if_trained(application(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3)))
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    job = config(tmp_path / "theirs.weights.h5", model=name)
    network = networks.build(job, genres=3, height=SIDE, width=SIDE)
    assert network.pretrained
    network.pretrained.backbone.set_weights(pretrained.load(job))
    features = keras.Model(network.inputs, network.get_layer("average").input)(FEATURES)
    expected = theirs(preprocess(tf.cast(FEATURES["image"], tf.float32)), training=False)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.ptp(expected))


def test_the_flags_name_every_backbone():
    assert tuple(backbones.BACKBONES) == configuration.BACKBONES


def test_a_finished_jobs_network_needs_no_file(begun):
    again = networks.build(config("gone.weights.h5"), genres=3, height=SIDE, width=SIDE)
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in begun.weights]


def test_files_without_the_networks_weights_are_refused_in_one_line(file, tmp_path, monkeypatch):
    def refusal(path, **changes):
        with pytest.raises(UserError, match=r"^--weights=") as error:
            pretrained.load(config(path, **changes))
        assert "\n" not in str(error.value)
        return str(error.value)

    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    cut, other, folder = (tmp_path / f"{name}.weights.h5" for name in ("cut", "other", "folder"))
    cut.write_bytes(file.read_bytes()[:5000])
    keras.Sequential([keras.layers.Conv2D(1, 3, input_shape=(8, 8, 3))]).save_weights(other)
    folder.mkdir()
    assert "does not hold the weights of efficientnet_lite0" in refusal(cut)
    assert "does not hold the weights of efficientnet_lite0" in refusal(other)
    assert "cannot be read" in refusal(folder)
    assert "does not exist: correct the path" in refusal(tmp_path / "none.weights.h5")
    assert "does not exist: correct the path" in refusal(cut / "inside.weights.h5")
    assert "s3://" in refusal("s3://bucket/some.weights.h5")
    monkeypatch.setattr(pretrained.files, "read", forbidden)
    assert "cannot be read (Permission denied): name another file" in refusal(file)


def test_downloaded_weights_are_those_of_the_network_and_the_log_says_how_many(original, monkeypatch, caplog):
    sizes = []

    def downloaded(image):
        sizes.append(image.shape[1:])
        return original

    monkeypatch.setitem(backbones.BACKBONES, "resnet50_v2", backbones.Backbone(tiny, 2, -1, downloaded=downloaded))
    with caplog.at_level("INFO", logger="trainer.model.pretrained"):
        weights = pretrained.load(config("imagenet", model="resnet50_v2"))
    for one, other in zip(weights, original.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sizes == [(None, None, 3)], "weights for images of any size"
    count = original.count_params()
    assert f"--model=resnet50_v2 starts with {count} pretrained weights from imagenet" in caplog.text


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_efficientnet_lite_sees_values_as_it_was_trained_on_and_has_no_download(name):
    lite = LITE0 if name == "efficientnet_lite0" else backbones.BACKBONES[name]
    levels = np.array([0, 127, 255])
    np.testing.assert_allclose(levels / 255 * lite.scale + lite.offset, (levels - 127) / 128)
    with pytest.raises(ValueError, match="there is no download of its weights"):
        lite.download()


def http_error(code):
    return urllib.error.HTTPError("https://example.com/a.h5", code, "message", http.client.HTTPMessage(), None)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (urllib.error.URLError("no\nroute"), LostService),
        (http_error(503), LostService),
        (http_error(500), LostService),
        (http_error(429), LostService),
        (http_error(408), LostService),
        (http_error(404), UserError),
        (http_error(499), UserError),
        (urllib.error.URLError(ssl.SSLCertVerificationError("self-signed")), UserError),
        (urllib.error.URLError(ssl.SSLError("handshake broken off")), LostService),
        (TimeoutError("timed out"), LostService),
        (ConnectionResetError("reset by peer"), LostService),
        (ssl.SSLError("the record layer failed"), LostService),
        (http.client.IncompleteRead(b""), LostService),
        (ValueError("Incomplete or corrupted file detected. The auto file hash does not match the provided value"), LostService),
        (ValueError("another value"), ValueError),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (MemoryError(), MemoryError),
    ],
)
def test_a_failed_download_is_reported_in_one_line_but_a_full_disk_is_a_crash(monkeypatch, tmp_path, error, end):
    def fails(url, path, hook):
        raise error

    # Patched where Keras calls it, because Keras replaces its errors.
    monkeypatch.setattr(sys.modules[keras.utils.get_file.__module__], "urlretrieve", fails)

    def download(image):
        keras.utils.get_file("a.h5", "https://example.com/a.h5", cache_dir=str(tmp_path))

    monkeypatch.setitem(backbones.BACKBONES, "resnet50_v2", backbones.Backbone(download, 2, -1, downloaded=download))
    with pytest.raises(end) as raised:
        pretrained.load(config("imagenet", model="resnet50_v2"))
    if end in (LostService, UserError):
        assert re.fullmatch(
            r"--weights=imagenet: the weights of resnet50_v2 cannot be downloaded \(.+name a file", str(raised.value)
        )


def test_efficientnet_lite_is_as_large_as_published():
    lite = backbones.BACKBONES["efficientnet_lite2"].build(48, 32)
    assert lite.output_shape == (None, 2, 1, 1280)
    # 6.09 million with its head of 1280 x 1000 weights and 1000 offsets.
    trained = sum(weight.shape.num_elements() for weight in lite.trainable_weights)
    assert (trained + 1281 * 1000) / 1e6 == pytest.approx(6.09, abs=0.005)
