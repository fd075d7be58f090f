"""Reads the orientation from an image's EXIF data with TensorFlow ops, so that it works inside a SavedModel.

The structures are JPEG segments (ITU-T T.81, annex B), PNG chunks (W3C PNG, third edition, eXIf), RIFF chunks (WebP container
specification, EXIF) and, inside all three, a TIFF directory (CIPA DC-008 "Exif", 4.5 and 4.6). Files are not trusted: an entry
that is truncated, misplaced or of the wrong type counts as orientation 1, as does a file without EXIF data.
"""

from collections.abc import Callable

import tensorflow as tf

from trainer.images.tf_bytes import starts_with, unsigned

_ORIENTATION_TAG = 0x0112
_TIFF_SHORT = 3
_TIFF_ENTRY_BYTES = 12
# In a PNG file the EXIF chunk may follow the pixels. Encoders write those in chunks of 8 KiB or more, so the search covers at
# least 32 MiB. A file of tiny chunks takes a fraction of a second.
_MAX_CHUNKS = 4096

# (file, offset of a chunk) -> (whether it is the EXIF chunk, begin and end of its payload, offset of the next chunk)
_ChunkReader = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]]


def jpeg_orientation(file: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a JPEG file.

    Args:
      file: Bytes of the whole file, uint8 [n].

    Returns:
      The orientation from 1 to 8 as EXIF numbers them, int64 []; 1 if the file has no valid one.
    """
    return _orientation(file, first_chunk=2, read_chunk=_jpeg_segment)


def png_orientation(file: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a PNG file; see `jpeg_orientation`."""
    return _orientation(file, first_chunk=8, read_chunk=_png_chunk)


def webp_orientation(file: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a WebP file; see `jpeg_orientation`."""
    return _orientation(file, first_chunk=12, read_chunk=_webp_chunk)


def _orientation(file: tf.Tensor, *, first_chunk: int, read_chunk: _ChunkReader) -> tf.Tensor:
    exif = _exif_payload(file, first_chunk, read_chunk)
    # JPEG always has this signature before the TIFF structure; some programs write it to WebP too.
    exif = tf.cond(starts_with(exif, b"Exif\0\0"), lambda: exif[6:], lambda: exif)
    is_tiff = tf.logical_or(starts_with(exif, b"II*\0"), starts_with(exif, b"MM\0*"))
    return tf.cond(is_tiff, lambda: _tiff_orientation(exif), lambda: tf.constant(1, tf.int64))


def _exif_payload(file: tf.Tensor, first_chunk: int, read_chunk: _ChunkReader) -> tf.Tensor:
    """Returns the payload of the first EXIF chunk, uint8 [m]; empty if the first `_MAX_CHUNKS` chunks have none."""
    size = tf.size(file, tf.int64)

    def searching(at: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        del end
        return tf.logical_and(begin == 0, at + 8 <= size)

    def step(at: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        is_exif, payload_begin, payload_end, next_chunk = read_chunk(file, at)
        return next_chunk, tf.where(is_exif, payload_begin, begin), tf.where(is_exif, payload_end, end)

    zero = tf.constant(0, tf.int64)
    start = (tf.constant(first_chunk, tf.int64), zero, zero)
    _, begin, end = tf.while_loop(searching, step, start, maximum_iterations=_MAX_CHUNKS)
    return file[begin : tf.minimum(end, size)]


def _jpeg_segment(file: tf.Tensor, at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    begin = at + 4
    end = at + 2 + unsigned(file, at + 2, 2, big_endian=True)
    is_exif = tf.logical_and(starts_with(file, b"\xff\xe1", at=at), starts_with(file, b"Exif\0\0", at=begin))
    # The pixels follow the start of scan (0xda). The search stops there, or where a marker is missing.
    is_header = tf.logical_and(starts_with(file, b"\xff", at=at), tf.logical_not(starts_with(file, b"\xff\xda", at=at)))
    return is_exif, begin, end, tf.where(is_header, end, tf.int64.max // 2)


def _png_chunk(file: tf.Tensor, at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    begin = at + 8
    end = begin + unsigned(file, at, 4, big_endian=True)
    checksum_bytes = 4
    return starts_with(file, b"eXIf", at=at + 4), begin, end, end + checksum_bytes


def _webp_chunk(file: tf.Tensor, at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    begin = at + 8
    end = begin + unsigned(file, at + 4, 4, big_endian=False)
    return starts_with(file, b"EXIF", at=at), begin, end, end + end % 2  # RIFF chunks begin at even offsets.


def _tiff_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF structure, uint8 [m], that begins with its signature: int64 []."""
    big_endian = tiff[0] == ord("M")
    size = tf.size(tiff, tf.int64)
    directory = tf.minimum(unsigned(tiff, 4, 4, big_endian=big_endian), size)
    entries = unsigned(tiff, directory, 2, big_endian=big_endian)
    first = directory + 2
    complete = tf.clip_by_value((size - first) // _TIFF_ENTRY_BYTES, 0, entries)
    table = tf.cast(tiff[first : first + complete * _TIFF_ENTRY_BYTES], tf.int64)
    table = tf.reshape(table, [-1, _TIFF_ENTRY_BYTES])

    def short(column: int) -> tf.Tensor:
        first_byte, second_byte = table[:, column], table[:, column + 1]
        return tf.where(big_endian, first_byte * 256 + second_byte, second_byte * 256 + first_byte)

    tag, value_type, value = short(0), short(2), short(8)
    wanted = (tag == _ORIENTATION_TAG) & (value_type == _TIFF_SHORT) & (value >= 1) & (value <= 8)
    return tf.concat([[tf.constant(1, tf.int64)], tf.boolean_mask(value, wanted)], axis=0)[-1]
