"""EfficientNet-Lite without its head: networks made for small devices, which suits a few CPU cores too.

EfficientNet-Lite is EfficientNet (Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks")
without squeeze-and-excitation, with ReLU6 instead of swish, and with a stem and a head of the same width in every size (Liu 2020,
"Higher accuracy on vision models with EfficientNet-Lite", TensorFlow's blog).
"""

import math

import tensorflow as tf
import tf_keras as keras

from trainer.model.layers import BatchNormalization

layers = keras.layers

# For each stage: how often it repeats its block, the kernel size, the stride of the first block, the factor by which a block
# widens its input, and the channels of its output.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite(image: tf.Tensor, *, width: float, depth: float) -> keras.Model:
    """Returns EfficientNet-Lite from its input to its last feature map.

    Args:
      image: the symbolic input, float [b, H, W, 3], with values (x - 127) / 128 for x in [0, 255].
      width: the factor for the channels of all layers but the stem and the head: 1.0 for Lite0, 1.1 for Lite2.
      depth: the factor for the repetitions of all stages but the first and the last: 1.0 for Lite0, 1.2 for Lite2.

    Returns:
      A model that returns features, float [b, ⌈H/32⌉, ⌈W/32⌉, 1280].
    """
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = _normalized(x, name="stem")
    block = 0
    for stage, (repeats, kernel, strides, expansion, channels) in enumerate(_STAGES):
        scaled = 0 < stage < len(_STAGES) - 1
        for repeat in range(math.ceil(repeats * depth) if scaled else repeats):
            x = _block(
                x,
                kernel=kernel,
                strides=strides if repeat == 0 else 1,
                expansion=expansion,
                channels=_scaled(channels, width),
                name=f"block_{block}",
            )
            block += 1
    x = layers.Conv2D(1280, 1, use_bias=False, name="head")(x)
    return keras.Model(image, _normalized(x, name="head"))


def _block(x: tf.Tensor, *, kernel: int, strides: int, expansion: int, channels: int, name: str) -> tf.Tensor:
    """Applies an inverted residual block (Sandler et al. 2018, "MobileNetV2"): expand, convolve each channel, project."""
    y, narrow = x, x.shape[-1]
    if expansion > 1:
        y = layers.Conv2D(narrow * expansion, 1, use_bias=False, name=f"{name}_expand")(y)
        y = _normalized(y, name=f"{name}_expand")
    y = layers.DepthwiseConv2D(kernel, strides, padding="same", use_bias=False, name=f"{name}_depthwise")(y)
    y = _normalized(y, name=f"{name}_depthwise")
    y = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(y)
    y = _normalized(y, name=f"{name}_project", activation=False)
    return layers.Add(name=f"{name}_add")([x, y]) if strides == 1 and narrow == channels else y


def _normalized(x: tf.Tensor, *, name: str, activation: bool = True) -> tf.Tensor:
    x = BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activation else x


def _scaled(channels: int, width: float) -> int:
    """Returns the multiple of 8 nearest to the scaled number, or the next one if that would lose more than a tenth."""
    exact = channels * width
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * exact else nearest
