"""Decoding pictures with TensorFlow's ops alone: a SavedModel sees what `trainer.data.images` showed in training.

`trainer.data.images` (PIL) is the reference: the same libraries decode, at the same scale, and the same kernel resizes.
What differs is rounding, by a grey level or two: PIL turns CMYK to RGB by another formula and resizes in fixed point.
"""

import functools

import tensorflow as tf

from trainer.data import tf_exif


def decode(data: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Decodes a JPEG, PNG or WebP file, turns it upright and puts white behind what is transparent.

    Args:
      data: string [], the file.
      height: the height in pixels that the picture will be resized to.
      width: the width in pixels that the picture will be resized to.

    Returns:
      uint8 [h, w, 3], RGB: the picture at its own size, or a JPEG at 1/2, 1/4 or 1/8 of it as long as both sides stay
      at least twice `height` and `width`.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged, animated, or of another format.
    """
    file = tf.io.decode_raw(data, tf.uint8)
    is_webp = tf.logical_and(tf_exif.starts_with(file, b"RIFF"), tf_exif.starts_with(file[8:], b"WEBP"))
    image = tf.case(
        [
            (tf_exif.starts_with(file, b"\xff\xd8\xff"), lambda: _decode_jpeg(data, file, height, width)),
            (tf_exif.starts_with(file, b"\x89PNG\r\n\x1a\n"), lambda: _decode_png(data, file)),
            (is_webp, lambda: _decode_webp(data, file)),
        ],
        default=_refuse_format,
    )
    return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Stretches uint8 [h, w, 3] to uint8 [height, width, 3], as `trainer.data.images.resize` does."""
    # In two passes, as PIL does, which clips what overshoots after each: beside sharp edges that makes 20 grey levels.
    narrowed = _resize_pass(image, [tf.shape(image)[0], width])
    return _resize_pass(narrowed, [height, width])


def _resize_pass(image: tf.Tensor, size: list[int | tf.Tensor]) -> tf.Tensor:
    resized = tf.image.resize(image, size, method="bicubic", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _decode_jpeg(data: tf.Tensor, file: tf.Tensor, height: int, width: int) -> tf.Tensor:
    orientation = tf_exif.jpeg_orientation(file)
    across, down = tf.cond(orientation >= 5, lambda: (height, width), lambda: (width, height))
    stored_height, stored_width, _ = tf.unstack(tf.io.extract_jpeg_shape(data))
    spare = tf.minimum(stored_width // (2 * across), stored_height // (2 * down))
    ratios = [1, 2, 4, 8]
    # PIL's discrete cosine transform; TensorFlow's default is a faster, rougher one.
    at_ratio = functools.partial(tf.io.decode_jpeg, data, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.switch_case(
        tf.reduce_sum(tf.cast(spare >= ratios[1:], tf.int32)),
        [functools.partial(at_ratio, ratio=ratio) for ratio in ratios],
    )
    return _upright(image, orientation)


def _decode_png(data: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
    rgba = tf.io.decode_png(data, channels=4)
    # Where a file has no transparency TensorFlow fills alpha with the greatest value of the file's bit depth, not of 8.
    bit_depth = tf.cast(tf.minimum(file[24], 8), tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, bit_depth) - 1, tf.uint8)
    alpha = tf.where(rgba[..., 3:] == filler, tf.constant(255, tf.uint8), rgba[..., 3:])
    return _upright(_over_white(rgba[..., :3], alpha), tf_exif.png_orientation(file))


def _decode_webp(data: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
    # With channels=0, TensorFlow 2.20 and 2.21 write an animation past their buffer, and the process aborts.
    flags = file[20:21]
    is_animated = tf.logical_and(tf_exif.starts_with(file[12:], b"VP8X"), tf.reduce_any(tf.bitwise.bitwise_and(flags, 0x02) != 0))
    still = tf.debugging.Assert(tf.logical_not(is_animated), ["the WebP file is an animation"])
    with tf.control_dependencies([still]):
        # The only channel count that takes files with and without alpha.
        image = tf.io.decode_webp(tf.identity(data), channels=0)[0]
    image = tf.cond(tf.shape(image)[-1] == 4, lambda: _over_white(image[..., :3], image[..., 3:]), lambda: image)
    return _upright(image, tf_exif.webp_orientation(file))


def _refuse_format() -> tf.Tensor:
    refused = tf.debugging.Assert(False, ["the file is no JPEG, PNG or WebP picture"])
    with tf.control_dependencies([refused]):
        return tf.zeros([1, 1, 3], tf.uint8)


def _over_white(rgb: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    opacity = tf.cast(alpha, tf.float32) / 255
    return tf.cast(tf.round(tf.cast(rgb, tf.float32) * opacity + 255 * (1 - opacity)), tf.uint8)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: each is a transposition or none, then columns, rows, both or neither mirrored."""

    def mirror(image: tf.Tensor, axis: int, orientations: list[int]) -> tf.Tensor:
        mirrored = tf.reduce_any(orientation == tf.constant(orientations, tf.int64))
        return tf.cond(mirrored, lambda: tf.reverse(image, [axis]), lambda: image)

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = mirror(image, 1, [2, 3, 6, 7])
    return mirror(image, 0, [3, 4, 7, 8])
