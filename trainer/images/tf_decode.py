"""Decodes images with TensorFlow ops only, so that a SavedModel sees the same pixels as training.

The reference is `trainer.images.decode`, which uses Pillow. Both decode with the same libraries at the same scale and resize with
the same kernel. Only rounding differs, by one or two grey levels: Pillow converts CMYK to RGB by another formula and resizes in
fixed point.

A file of a few kilobytes can hold gigabytes of pixels. So the number of pixels is read from the header before they are decoded:
for PNG as in W3C PNG, third edition, 11.2.1; for WebP as in RFC 9649, and for lossy WebP as in RFC 6386, 9.1.
"""

import functools

import tensorflow as tf

from trainer.images import tf_exif
from trainer.images.decode import MAX_PIXELS
from trainer.images.tf_bytes import starts_with, unsigned


def decode(data: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Decodes a JPEG, PNG or WebP file, applies its EXIF orientation and composites transparency over white.

    Args:
      data: Bytes of the file, string [].
      height: Height in pixels that the image will be resized to.
      width: Width in pixels that the image will be resized to.

    Returns:
      RGB pixels, uint8 [h, w, 3]. The image has its own size; a JPEG may have 1/2, 1/4 or 1/8 of it, as long as neither side
      falls below `height` or `width`.

    Raises:
      tf.errors.InvalidArgumentError: The file is damaged, animated, of another format, or has more than
        `trainer.images.decode.MAX_PIXELS`. The number of pixels is checked before anything is decoded.
    """
    file = tf.io.decode_raw(data, tf.uint8)
    is_webp = tf.logical_and(starts_with(file, b"RIFF"), starts_with(file, b"WEBP", at=8))
    image = tf.case(
        [
            (starts_with(file, b"\xff\xd8\xff"), lambda: _decode_jpeg(data, file, height, width)),
            (starts_with(file, b"\x89PNG\r\n\x1a\n"), lambda: _decode_png(data, file)),
            (is_webp, lambda: _decode_webp(data, file)),
        ],
        default=_refuse_format,
    )
    return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Resizes an image as `trainer.images.decode.resize` does.

    Args:
      image: Pixels, uint8 [h, w, 3].
      height: New height in pixels.
      width: New width in pixels.

    Returns:
      Pixels, uint8 [height, width, 3].
    """
    # As in Pillow: columns first, then rows, each clipped to 0..255. Another order changes sharp edges by 20 grey levels.
    narrowed = tf.transpose(_resize_rows(tf.transpose(image, [1, 0, 2]), width), [1, 0, 2])
    return _resize_rows(narrowed, height)


def _resize_rows(image: tf.Tensor, count: int) -> tf.Tensor:
    """Resizes uint8 [h, w, 3] to uint8 [count, w, 3] by a matrix product with the kernel's weights.

    `tf.image.resize(method="bicubic", antialias=True)` uses the same weights but takes twice as long.
    """
    before, others, channels = tf.unstack(tf.shape(image))
    scale = tf.cast(before, tf.float32) / count
    centres = (tf.range(count, dtype=tf.float32)[:, tf.newaxis] + 0.5) * scale - 0.5
    distances = tf.abs(centres - tf.range(tf.cast(before, tf.float32))) / tf.maximum(scale, 1)
    weights = _cubic_kernel(distances)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    values = tf.cast(tf.reshape(image, [before, others * channels]), tf.float32)
    return tf.reshape(tf.saturate_cast(tf.round(weights @ values), tf.uint8), [count, others, channels])


def _cubic_kernel(distance: tf.Tensor) -> tf.Tensor:
    """Returns the weight of a pixel at a distance: Keys' kernel with a = -0.5, see `trainer.images.decode.resize`.

    The kernel is one cubic up to distance 1 and another up to 2. In terms of relu(2 - distance) and relu(1 - distance) it is a
    single formula without a branch.
    """
    to_2, to_1 = tf.nn.relu(2 - distance), tf.nn.relu(1 - distance)
    return to_2 * to_2 * (0.5 * to_2 - 0.5) + to_1 * to_1 * (1 - 2 * to_1)


def _decode_jpeg(data: tf.Tensor, file: tf.Tensor, height: int, width: int) -> tf.Tensor:
    orientation = tf.cond(
        # Most files have no EXIF data, and a search for its signature is faster than a walk over the segments. \C is any byte.
        tf.strings.regex_full_match(data, r"\C*Exif\C*"),
        lambda: tf_exif.jpeg_orientation(file),
        lambda: tf.constant(1, tf.int64),
    )
    across, down = tf.cond(orientation >= 5, lambda: (height, width), lambda: (width, height))
    stored_height, stored_width, _ = tf.unstack(tf.io.extract_jpeg_shape(data))
    data = _limited(data, stored_width, stored_height)
    max_ratio = tf.minimum(stored_width // across, stored_height // down)
    ratios = [1, 2, 4, 8]
    # The discrete cosine transform that Pillow uses; TensorFlow's default is faster and less accurate.
    at_ratio = functools.partial(tf.io.decode_jpeg, data, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.switch_case(
        tf.reduce_sum(tf.cast(max_ratio >= ratios[1:], tf.int32)),
        [functools.partial(at_ratio, ratio=ratio) for ratio in ratios],
    )
    return _upright(image, orientation)


def _decode_png(data: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
    # The decoder would skip other chunks before the header, so the sides could stand elsewhere.
    data = _checked(data, starts_with(file, b"IHDR", at=12), "the PNG file does not begin with its header")
    data = _limited(data, unsigned(file, 16, 4, big_endian=True), unsigned(file, 20, 4, big_endian=True))
    rgba = tf.io.decode_png(data, channels=4)
    # If a file has no transparency, TensorFlow fills alpha with the maximum of the file's bit depth, not of 8 bits.
    bit_depth = tf.cast(tf.minimum(file[24], 8), tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, bit_depth) - 1, tf.uint8)
    return _upright(_over_white(rgba, opaque=filler), tf_exif.png_orientation(file))


def _decode_webp(data: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
    def number(at: int, size: int) -> tf.Tensor:
        return unsigned(file, at, size, big_endian=False)

    is_extended, is_lossless = starts_with(file, b"VP8X", at=12), starts_with(file, b"VP8L", at=12)
    # With channels=0, TensorFlow 2.20 and 2.21 write an animation beyond their buffer, which aborts the process.
    is_animated = tf.logical_and(is_extended, tf.bitwise.bitwise_and(number(20, 1), 0x02) != 0)
    data = _checked(data, tf.logical_not(is_animated), "the WebP file is an animation")
    width, height = tf.case(
        [
            (is_extended, lambda: (number(24, 3) + 1, number(27, 3) + 1)),
            (is_lossless, lambda: (number(21, 4) % 2**14 + 1, number(21, 4) // 2**14 % 2**14 + 1)),
        ],
        default=lambda: (number(26, 2) % 2**14, number(28, 2) % 2**14),
    )
    # channels=0 is the only setting that accepts files with and without alpha.
    image = tf.io.decode_webp(_limited(data, width, height), channels=0)[0]
    image = tf.cond(tf.shape(image)[-1] == 4, lambda: _over_white(image, opaque=255), lambda: image)
    return _upright(image, tf_exif.webp_orientation(file))


def _checked(data: tf.Tensor, good: tf.Tensor, fault: str) -> tf.Tensor:
    """Returns the file once a check has passed, so that no decoder sees it before."""
    with tf.control_dependencies([tf.debugging.Assert(good, [fault])]):
        return tf.identity(data)


def _limited(data: tf.Tensor, width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    """Returns the file once its image is known not to be too large."""
    # A division, as the product of the sides could overflow.
    good = width <= MAX_PIXELS // tf.maximum(height, 1)
    return _checked(data, good, f"the image has more than {MAX_PIXELS:,} pixels")


def _refuse_format() -> tf.Tensor:
    refused = tf.debugging.Assert(False, ["the file is not a JPEG, PNG or WebP image"])
    with tf.control_dependencies([refused]):
        return tf.zeros([1, 1, 3], tf.uint8)


def _over_white(rgba: tf.Tensor, *, opaque: int | tf.Tensor) -> tf.Tensor:
    """Composites uint8 [h, w, 4] over white, unless all alpha values are `opaque`. Returns uint8 [h, w, 3]."""

    def composite() -> tf.Tensor:
        alpha = tf.cast(rgba[..., 3:], tf.uint16)
        mixed = tf.cast(rgba[..., :3], tf.uint16) * alpha + 255 * (255 - alpha)
        # Rounded division by 255 within 16 bits, which halves the memory that a large image takes.
        mixed += 128
        return tf.cast((mixed + mixed // 256) // 256, tf.uint8)

    is_opaque = tf.reduce_all(rgba[..., 3] == opaque)
    return tf.cond(is_opaque, lambda: rgba[..., :3], composite)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: an optional transposition, then an optional mirroring of the columns and of the rows."""

    def mirror(image: tf.Tensor, axis: int, orientations: list[int]) -> tf.Tensor:
        mirrored = tf.reduce_any(orientation == tf.constant(orientations, tf.int64))
        return tf.cond(mirrored, lambda: tf.reverse(image, [axis]), lambda: image)

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = mirror(image, 1, [2, 3, 6, 7])
    return mirror(image, 0, [3, 4, 7, 8])
