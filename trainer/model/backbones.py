"""Networks that others have trained on ImageNet, as far as their last feature map."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.model.efficientnet_lite import efficientnet_lite
from trainer.model.layers import BatchNormalization


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without its head, and the pictures that it was trained on.

    Attributes:
      network: makes it of its symbolic input, float [b, H, W, 3].
      scale: what a picture with values in [0, 1] is multiplied by; one number, or one a channel.
      offset: what is then added, likewise.
      downloaded: makes the same network with its ImageNet weights, which it downloads; None where nobody offers them.
    """

    network: Callable[..., keras.Model]
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    downloaded: Callable[..., keras.Model] | None = None

    def build(self, height: int, width: int) -> keras.Model:
        """The network for pictures of one size, with random weights.

        What would depend on how a batch is shared out, or on when a job was interrupted, is replaced: see `trainer.model.layers`.
        The weights are those of `network`, in their order.
        """
        network = keras.models.clone_model(self.network(_image(height, width)), clone_function=_exact)
        return keras.Model(network.inputs, network.outputs, name="backbone")

    def download(self) -> keras.Model:
        """The network with its ImageNet weights.

        Raises:
          Exception: of any kind, where the download fails; Keras gives it none of its own.
          ValueError: nobody offers them.
        """
        if self.downloaded is None:
            raise ValueError("nobody offers its weights for download")
        return self.downloaded(_image(None, None))


def _image(height: int | None, width: int | None) -> tf.Tensor:
    return keras.Input((height, width, 3), name="picture")


def _exact(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.BatchNormalization):
        return BatchNormalization.from_config(layer.get_config())
    if isinstance(layer, keras.layers.Dropout):
        # It draws from a generator that is in no checkpoint. The network has dropout of its own, before the head.
        return keras.layers.Identity(name=layer.name)
    return layer.from_config(layer.get_config())


def _of_keras(application: Callable[..., keras.Model], **options: bool) -> dict[str, Callable[..., keras.Model]]:
    """The two makers of a network of keras.applications."""

    def make(weights: str | None, image: tf.Tensor) -> keras.Model:
        return application(include_top=False, weights=weights, input_tensor=image, **options)

    return {"network": functools.partial(make, None), "downloaded": functools.partial(make, "imagenet")}


# Mean and standard deviation of ImageNet's channels.
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
"""What `--model` may name, beside the networks of `trainer.model.networks`."""
