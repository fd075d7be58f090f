"""Signatures and numbers in the bytes of a file, also past its end."""

import pytest
import tensorflow as tf

from trainer.images.tf_bytes import starts_with, unsigned


def octets(data):
    return tf.io.decode_raw(data, tf.uint8)


@pytest.mark.parametrize(
    ("data", "prefix", "at", "expected"),
    [
        (b"RIFFsizeWEBP", b"RIFF", 0, True),
        (b"RIFFsizeWEBP", b"WEBP", 8, True),
        (b"RIFFsizeWEBP", b"RIFF", 1, False),
        (b"RIFFsizeWEB", b"WEBP", 8, False),
        (b"RIFF", b"WEBP", 8, False),
        (b"Exif\0", b"Exif\0\0", 0, False),  # Bytes past the end are no zeros here.
        (b"", b"\0", 0, False),
        (b"RIGF", b"RIFF", 0, False),
    ],
)
def test_a_signature_is_found_where_all_of_it_stands(data, prefix, at, expected):
    assert bool(starts_with(octets(data), prefix, at=at)) is expected
    assert bool(starts_with(octets(data), prefix, at=tf.constant(at, tf.int64))) is expected


def test_a_signature_is_looked_for_at_the_beginning_unless_told():
    assert starts_with(octets(b"PNG"), b"PN")
    assert not starts_with(octets(b"xPN"), b"PN")


@pytest.mark.parametrize(
    ("data", "at", "size", "little", "big"),
    [
        (b"\x01\x02\x03\x04", 0, 4, 0x04030201, 0x01020304),
        (b"\x01\x02\x03\x04", 1, 2, 0x0302, 0x0203),
        (b"\xff\xff\xff\xff", 0, 4, 2**32 - 1, 2**32 - 1),
        (b"\x01\x02\x03\x04", 3, 1, 4, 4),
        (b"\x01\x02\x03\x04", 3, 2, 0x04, 0x0400),
        (b"\x01\x02\x03\x04", 9, 2, 0, 0),
    ],
)
def test_a_number_is_read_in_both_byte_orders_and_bytes_past_the_end_are_zeros(data, at, size, little, big):
    assert int(unsigned(octets(data), at, size, big_endian=False)) == little
    assert int(unsigned(octets(data), at, size, big_endian=True)) == big
    assert int(unsigned(octets(data), tf.constant(at, tf.int64), size, big_endian=tf.constant(True))) == big
