"""Backbones: networks for which pretrained ImageNet weights exist, up to their last feature map."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.model.efficientnet_lite import efficientnet_lite
from trainer.model.layers import BatchNormalization


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without its head, and the input values that it was trained on.

    Attributes:
      network: a function from a symbolic input, float [b, H, W, 3], to the network with random weights.
      scale: the factor for images with values in [0, 1]; one number, or one for each channel.
      offset: the number to add after scaling; one number, or one for each channel.
      downloaded: a function like `network` that downloads the ImageNet weights, or None where there is no download.
    """

    network: Callable[..., keras.Model]
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    downloaded: Callable[..., keras.Model] | None = None

    def build(self, height: int, width: int) -> keras.Model:
        """Returns the network for images of one size, with random weights.

        Layers whose results depend on how a batch is shared among replicas, or on when a job was interrupted, are replaced: see
        `trainer.model.layers`. The weights have the same order and shapes as those of `network`.

        Args:
          height: the height of the images in pixels.
          width: the width of the images in pixels.

        Returns:
          A model from float [b, H, W, 3] to its last feature map, float [b, h, w, C].
        """
        network = keras.models.clone_model(self.network(_image(height, width)), clone_function=_exact)
        return keras.Model(network.inputs, network.outputs, name="backbone")

    def download(self) -> keras.Model:
        """Returns the network with its ImageNet weights, for images of any size.

        Raises:
          Exception: the download fails; Keras has no exception type for it.
          ValueError: there is no download of its weights.
        """
        if self.downloaded is None:
            raise ValueError("there is no download of its weights")
        return self.downloaded(_image(None, None))


def _image(height: int | None, width: int | None) -> tf.Tensor:
    return keras.Input((height, width, 3), name="picture")


def _exact(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.BatchNormalization):
        return BatchNormalization.from_config(layer.get_config())
    if isinstance(layer, keras.layers.Dropout):
        # Keras's dropout draws from a generator that no checkpoint holds. The network has its own dropout before the head.
        return keras.layers.Identity(name=layer.name)
    return layer.from_config(layer.get_config())


def _of_keras(application: Callable[..., keras.Model], **options: bool) -> dict[str, Callable[..., keras.Model]]:
    """Returns the fields `network` and `downloaded` for a network of keras.applications."""

    def make(weights: str | None, image: tf.Tensor) -> keras.Model:
        return application(include_top=False, weights=weights, input_tensor=image, **options)

    return {"network": functools.partial(make, None), "downloaded": functools.partial(make, "imagenet")}


# Mean and standard deviation of each channel over ImageNet, for values in [0, 1].
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

BACKBONES = {
    "efficientnet_lite0": Backbone(functools.partial(efficientnet_lite, width=1.0, depth=1.0), scale=255 / 128, offset=-127 / 128),
    "efficientnet_lite2": Backbone(functools.partial(efficientnet_lite, width=1.1, depth=1.2), scale=255 / 128, offset=-127 / 128),
    # Tan and Le 2021, "EfficientNetV2: Smaller Models and Faster Training".
    "efficientnet_v2_b0": Backbone(
        **_of_keras(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        scale=tuple(1 / deviation for deviation in _DEVIATIONS),
        offset=tuple(-mean / deviation for mean, deviation in zip(_MEANS, _DEVIATIONS, strict=True)),
    ),
    # He et al. 2016, "Identity Mappings in Deep Residual Networks".
    "resnet50_v2": Backbone(**_of_keras(keras.applications.ResNet50V2), scale=2, offset=-1),
}
"""The backbones by their name in `--model`."""
