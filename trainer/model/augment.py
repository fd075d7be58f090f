"""Augmentation on the device: one Keras layer for flip, crop, brightness and contrast that compiles under XLA."""

import dataclasses

import tensorflow as tf
import tf_keras as keras

from trainer.input import stateless


@dataclasses.dataclass(frozen=True)
class Strength:
    """How much augmentation changes an image.

    Attributes:
      smallest_area: the area of the smallest crop, as a share of the image's area.
      aspect: the largest factor by which a crop's ratio of width to height changes, either way.
      brightness: the largest number added to all values of an image, which are in [0, 1], either way.
      contrast: the largest share by which the distances of the values from the image's mean change, either way.
      mixed: the share of films that the input mixes with another one, see `trainer.input.cutmix`.
    """

    smallest_area: float
    aspect: float
    brightness: float
    contrast: float
    mixed: float = 0.0


# Posters have titles and faces near the edges, so crops stay large. Light changes are what a camera would do.
STRENGTHS = {
    "light": Strength(smallest_area=0.7, aspect=1.1, brightness=0.1, contrast=0.1),
    "strong": Strength(smallest_area=0.5, aspect=1.2, brightness=0.2, contrast=0.25, mixed=0.5),
}


class Augment(keras.layers.Layer):
    """Changes each image at random in training; outside training it returns images unchanged.

    Called on (images float32 [b, H, W, 3] with values in [0, 1], position int64 [b]); returns images of the same shape, dtype and
    range. The method is random resized cropping as in Szegedy et al. 2015, "Going Deeper with Convolutions" (sampling of training
    images), then a change of contrast and brightness.
    """

    def __init__(self, strength: Strength, *, seed: int, batch_size: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._strength, self._seed, self._batch_size = strength, seed, batch_size

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        images, position = inputs
        if not training:
            return images
        strength = self._strength
        draws = stateless.uniform(position, 7, seed=self._seed, stream=0, batch_size=self._batch_size)
        area, ratio, top, left, flip, brightness, contrast = tf.unstack(draws, axis=1)

        side = tf.sqrt(_between(area, strength.smallest_area, 1.0))
        stretch = tf.sqrt(strength.aspect ** _between(ratio, -1.0, 1.0))
        height, width = tf.minimum(side / stretch, 1.0), tf.minimum(side * stretch, 1.0)
        images = _crop(images, (top * (1 - height), height), (left * (1 - width), width), flip < 0.5)

        mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
        gain = _per_image(_between(contrast, 1 - strength.contrast, 1 + strength.contrast))
        shift = _per_image(_between(brightness, -strength.brightness, strength.brightness))
        return tf.clip_by_value((images - mean) * gain + mean + shift, 0.0, 1.0)


def _between(draw: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + draw * (high - low)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _crop(images: tf.Tensor, rows: tuple[tf.Tensor, tf.Tensor], columns: tuple[tf.Tensor, tf.Tensor], flip: tf.Tensor) -> tf.Tensor:
    """Cuts a rectangle out of each image and resizes it bilinearly to the image's size.

    It is two products with interpolation matrices, because the ops for this (CropAndResize, ImageProjectiveTransform) do not
    compile under XLA. A crop is never larger than the image, so plain bilinear interpolation does not alias.

    Args:
      images: float32 [b, H, W, 3].
      rows: the start and the extent of the rectangles as shares of the height, float32 [b] each.
      columns: the start and the extent of the rectangles as shares of the width, float32 [b] each.
      flip: whether to mirror each image left to right, bool [b].

    Returns:
      The crops, float32 [b, H, W, 3].
    """
    height, width, channels = images.shape[1:]
    vertical = _interpolation(rows, height, flip=tf.zeros_like(flip))
    horizontal = _interpolation(columns, width, flip=flip)
    batch = tf.shape(images)[0]
    cut = tf.matmul(vertical, tf.reshape(images, (batch, height, width * channels)))
    cut = tf.transpose(tf.reshape(cut, (batch, height, width, channels)), (0, 2, 1, 3))
    cut = tf.matmul(horizontal, tf.reshape(cut, (batch, width, height * channels)))
    return tf.transpose(tf.reshape(cut, (batch, width, height, channels)), (0, 2, 1, 3))


def _interpolation(span: tuple[tf.Tensor, tf.Tensor], size: int, flip: tf.Tensor) -> tf.Tensor:
    """Returns weights, float32 [b, size, size]: row i is what each pixel contributes to pixel i of the crop."""
    start, extent = (value[:, tf.newaxis] for value in span)
    centre = (tf.range(size, dtype=tf.float32) + 0.5)[tf.newaxis, :] / size
    centre = tf.where(flip[:, tf.newaxis], 1 - centre, centre)
    source = tf.clip_by_value((start + centre * extent) * size - 0.5, 0.0, size - 1.0)
    distance = tf.abs(source[:, :, tf.newaxis] - tf.range(size, dtype=tf.float32))
    return tf.nn.relu(1 - distance)
