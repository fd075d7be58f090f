"""Where the orientation stands in a file; test_tf_decode.py compares the pixels with Pillow's."""

import struct

import pytest
import tensorflow as tf

from trainer.images import tf_exif

TIFF = b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0) + bytes(4)


def read(reader, data):
    return int(reader(tf.io.decode_raw(data, tf.uint8)))


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def riff_chunk(kind, content):
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_the_exif_chunk_of_a_webp_file_is_found_behind_chunks_of_odd_and_even_size(size):
    before = riff_chunk(b"VP8 ", b"x" * size)
    assert read(tf_exif.webp_orientation, webp(before, riff_chunk(b"EXIF", TIFF))) == 6
    assert read(tf_exif.webp_orientation, webp(before, before, riff_chunk(b"EXIF", b"Exif\0\0" + TIFF))) == 6
    assert read(tf_exif.webp_orientation, webp(before)) == 1


def test_the_exif_chunk_of_a_png_file_is_found_behind_others():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + b"crc!"

    before = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"tEXt", b"odd")
    assert read(tf_exif.png_orientation, before + chunk(b"eXIf", TIFF) + chunk(b"IEND", b"")) == 6
    assert read(tf_exif.png_orientation, before + chunk(b"IEND", b"")) == 1


def test_the_exif_segment_of_a_jpeg_file_is_found_behind_others():
    exif = segment(0xE1, b"Exif\0\0" + TIFF)
    others = segment(0xE0, b"JFIF\0") + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + TIFF)
    assert read(tf_exif.jpeg_orientation, b"\xff\xd8" + others + exif) == 6
    assert read(tf_exif.jpeg_orientation, b"\xff\xd8" + others) == 1


@pytest.mark.parametrize("before", [segment(0xDA, b"scan"), b"\x00\xe0\x00\x04ab"], ids=["scan", "no marker"])
def test_the_search_in_a_jpeg_file_stops_where_its_header_ends(before):
    assert read(tf_exif.jpeg_orientation, b"\xff\xd8" + before + segment(0xE1, b"Exif\0\0" + TIFF)) == 1


def test_an_exif_segment_has_its_signature_and_its_marker():
    assert read(tf_exif.jpeg_orientation, b"\xff\xd8" + segment(0xE2, b"Exif\0\0" + TIFF)) == 1
    assert read(tf_exif.jpeg_orientation, b"\xff\xd8" + segment(0xE1, TIFF)) == 1


def test_the_first_exif_chunk_counts():
    upside_down = TIFF.replace(struct.pack("<HH", 6, 0), struct.pack("<HH", 3, 0))
    chunks = riff_chunk(b"EXIF", upside_down), riff_chunk(b"EXIF", TIFF)
    assert read(tf_exif.webp_orientation, webp(*chunks)) == 3


def test_an_entry_is_read_in_the_files_byte_order_wherever_its_directory_stands():
    def entry(order, tag, value):
        return struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)

    for order, signature in (("<", b"II*\0"), (">", b"MM\0*")):
        entries = entry(order, 0x0100, 300) + entry(order, 0x0112, 8) + entry(order, 0x0128, 2)
        tiff = signature + struct.pack(f"{order}I", 11) + b"pad" + struct.pack(f"{order}H", 3) + entries
        assert read(tf_exif.webp_orientation, webp(riff_chunk(b"EXIF", tiff))) == 8
