"""Reads signatures and numbers from the bytes of an untrusted file with TensorFlow ops.

Each function copies only the bytes that it needs: a search that copies the rest of the file at every step takes quadratic time.
"""

import tensorflow as tf


def starts_with(octets: tf.Tensor, prefix: bytes, *, at: int | tf.Tensor = 0) -> tf.Tensor:
    """Returns whether a byte string stands at an offset of a file.

    Args:
      octets: Bytes of the file, uint8 [n].
      prefix: The byte string.
      at: Offset in bytes; may lie past the end.

    Returns:
      bool [].
    """
    is_whole = tf.size(octets[at : at + len(prefix)]) == len(prefix)
    return tf.logical_and(is_whole, tf.reduce_all(_padded(octets, at, len(prefix)) == tf.constant(list(prefix), tf.uint8)))


def unsigned(octets: tf.Tensor, at: int | tf.Tensor, size: int, *, big_endian: bool | tf.Tensor) -> tf.Tensor:
    """Reads an unsigned integer at an offset of a file.

    Args:
      octets: Bytes of the file, uint8 [n].
      at: Offset in bytes; bytes past the end count as zeros.
      size: Size of the integer in bytes, at most 4.
      big_endian: Whether the most significant byte comes first.

    Returns:
      int64 [].
    """
    little_endian_weights = [256**power for power in range(size)]
    weights = tf.where(big_endian, tf.constant(little_endian_weights[::-1], tf.int64), little_endian_weights)
    return tf.reduce_sum(tf.cast(_padded(octets, at, size), tf.int64) * weights)


def _padded(octets: tf.Tensor, at: int | tf.Tensor, size: int) -> tf.Tensor:
    found = octets[at : at + size]
    return tf.pad(found, [[0, size - tf.size(found)]])
