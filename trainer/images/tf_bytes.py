"""Marks and numbers in the bytes of a file that nobody has checked, read with TensorFlow's ops.

Only the bytes that are asked for are copied: a search that copies the rest of the file at every step takes quadratic time.
"""

import tensorflow as tf


def starts_with(octets: tf.Tensor, prefix: bytes, *, at: int | tf.Tensor = 0) -> tf.Tensor:
    """Whether `prefix` stands at an offset of uint8 [n], which may lie past the end: bool []."""
    is_whole = tf.size(octets[at : at + len(prefix)]) == len(prefix)
    return tf.logical_and(is_whole, tf.reduce_all(_padded(octets, at, len(prefix)) == tf.constant(list(prefix), tf.uint8)))


def unsigned(octets: tf.Tensor, at: int | tf.Tensor, size: int, *, big_endian: bool | tf.Tensor) -> tf.Tensor:
    """The unsigned integer in `size` <= 4 bytes at an offset of uint8 [n], with zeros for bytes past the end: int64 []."""
    little_endian_places = [256**power for power in range(size)]
    places = tf.where(big_endian, tf.constant(little_endian_places[::-1], tf.int64), little_endian_places)
    return tf.reduce_sum(tf.cast(_padded(octets, at, size), tf.int64) * places)


def _padded(octets: tf.Tensor, at: int | tf.Tensor, size: int) -> tf.Tensor:
    found = octets[at : at + size]
    return tf.pad(found, [[0, size - tf.size(found)]])
