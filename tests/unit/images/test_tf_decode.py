"""Tests that TensorFlow ops (in serving) decode the same pixels as Pillow (in training)."""

import functools
import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.images import decode, tf_decode, tf_exif

HEIGHT, WIDTH = 96, 64
ODD_IMAGES = Path(__file__).parents[3].parent / "shared" / "data" / "odd_images"


def image(width: int = 90, height: int = 130) -> Image.Image:
    """An image of soft colours with a hard-edged shape, whose corners all differ."""
    coarse = Image.frombytes("RGB", (4, 6), random.Random(7).randbytes(4 * 6 * 3))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    image.paste("black", (width // 8, height // 8, width // 2, height // 3))
    image.paste("white", (width // 4, height // 6, width // 3, height // 2))
    return image


def transparent(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def file(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey_16_bit() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(40, 30))


PNG_AND_WEBP: dict[str, Callable[[], bytes]] = {
    "PNG RGB": lambda: file(image(), "PNG"),
    "PNG grey": lambda: file(image().convert("L"), "PNG"),
    "PNG grey and alpha": lambda: file(transparent(image().convert("L")), "PNG"),
    "PNG RGBA": lambda: file(transparent(image()), "PNG"),
    "PNG palette of 200": lambda: file(image().quantize(200), "PNG"),
    "PNG palette of 16": lambda: file(image().quantize(16), "PNG"),
    "PNG palette of 2": lambda: file(image().quantize(2), "PNG"),
    "PNG palette with a transparent colour": lambda: file(image().quantize(16), "PNG", transparency=3),
    "PNG palette with alpha": lambda: file(image().quantize(200), "PNG", transparency=bytes(range(200))),
    "PNG black and white": lambda: file(image().convert("1"), "PNG"),
    "PNG RGB with a transparent colour": lambda: file(image(), "PNG", transparency=(0, 0, 0)),
    "WebP": lambda: file(image(), "WEBP"),
    "WebP with alpha": lambda: file(transparent(image()), "WEBP"),
    "WebP lossless with alpha": lambda: file(transparent(image()), "WEBP", lossless=True, exact=True),
    "WebP grey": lambda: file(image().convert("L"), "WEBP"),
}
JPEG: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: file(image(), "JPEG"),
    "JPEG without subsampling": lambda: file(image(), "JPEG", subsampling=0),
    "JPEG with odd sides": lambda: file(image(91, 133), "JPEG"),
    "JPEG progressive": lambda: file(image(), "JPEG", progressive=True),
    "JPEG grey": lambda: file(image().convert("L"), "JPEG"),
    "JPEG read at 1/2": lambda: file(image(300, 420), "JPEG"),
    "JPEG read at 1/8": lambda: file(image(1100, 1700), "JPEG"),
}
ROUNDED: dict[str, Callable[[], bytes]] = {
    "JPEG CMYK": lambda: file(image().convert("CMYK"), "JPEG"),
    "PNG grey of 16 bits": lambda: file(grey_16_bit(), "PNG"),
}


@functools.cache
def decode_in_graph() -> Callable[[bytes], tf.Tensor]:
    return tf.function(
        functools.partial(tf_decode.decode, height=HEIGHT, width=WIDTH),
        input_signature=[tf.TensorSpec([], tf.string)],
    )


def decoded_twice(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels that TensorFlow and Pillow decode, each int [h, w, 3]."""
    by_pil = np.asarray(decode.decode(data, height=HEIGHT, width=WIDTH))
    return decode_in_graph()(data).numpy().astype(int), by_pil.astype(int)


def resized_twice(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    by_tf = tf_decode.resize(decode_in_graph()(data), height=HEIGHT, width=WIDTH).numpy()
    by_pil = decode.resize(decode.decode(data, height=HEIGHT, width=WIDTH), height=HEIGHT, width=WIDTH)
    return by_tf.astype(int), by_pil.astype(int)


def assert_close(by_tf: np.ndarray, by_pil: np.ndarray, *, greatest: int, mean: float) -> None:
    assert by_tf.shape == by_pil.shape
    difference = np.abs(by_tf - by_pil)
    assert difference.max() <= greatest
    assert difference.mean() <= mean


@pytest.mark.parametrize("kind", PNG_AND_WEBP)
def test_png_and_webp_decode_exactly_as_in_training(kind: str) -> None:
    by_tf, by_pil = decoded_twice(PNG_AND_WEBP[kind]())
    np.testing.assert_array_equal(by_tf, by_pil)


@pytest.mark.parametrize("kind", JPEG)
def test_jpeg_decodes_as_in_training_at_the_same_scale(kind: str) -> None:
    assert_close(*decoded_twice(JPEG[kind]()), greatest=1, mean=0.05)


@pytest.mark.parametrize("kind", ROUNDED)
def test_cmyk_and_16_bits_differ_from_training_by_rounding_alone(kind: str) -> None:
    assert_close(*decoded_twice(ROUNDED[kind]()), greatest=1, mean=0.6)


@pytest.mark.parametrize("kind", PNG_AND_WEBP | JPEG)
def test_a_decoded_image_is_resized_as_in_training(kind: str) -> None:
    assert_close(*resized_twice((PNG_AND_WEBP | JPEG)[kind]()), greatest=1, mean=0.01)


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason="no real CMYK and greyscale posters beside the repository")
def test_real_cmyk_and_greyscale_posters_look_as_in_training() -> None:
    for path in sorted(ODD_IMAGES.iterdir()):
        assert_close(*resized_twice(path.read_bytes()), greatest=2, mean=0.6)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_as_in_training(format: str, orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker, so that the orientation is not the first entry"
    exif[0x0112] = orientation
    by_tf, by_pil = decoded_twice(file(image(), format, exif=exif.tobytes()))
    assert_close(by_tf, by_pil, greatest=1, mean=0.05)
    assert (by_tf.shape[0] < by_tf.shape[1]) == (orientation >= 5)


def test_the_scale_of_a_sideways_jpeg_is_chosen_by_its_upright_sides() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    # Upright it is 270 x 400 pixels, of which a quarter is enough for 64 x 96. As stored, a quarter is not high enough.
    by_tf, by_pil = decoded_twice(file(image(400, 270), "JPEG", exif=exif.tobytes()))
    assert by_tf.shape == (100, 68, 3)
    assert_close(by_tf, by_pil, greatest=1, mean=0.05)


def exif_jpeg(payload: bytes) -> bytes:
    """A JPEG whose EXIF segment holds `payload`."""
    plain = file(image(), "JPEG")
    segment = b"Exif\0\0" + payload
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]


def tiff(*, offset: int = 8, entries: int = 1, tag: int = 0x0112, kind: int = 3, value: int = 6) -> bytes:
    return b"II*\0" + struct.pack("<IHHHIHH", offset, entries, tag, kind, 1, value, 0) + bytes(4)


def test_the_handmade_exif_segment_is_understood() -> None:
    assert orientation_of(exif_jpeg(tiff())) == 6


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"II*\0",
        b"XX*\0" + tiff()[4:],
        tiff()[:20],
        tiff(offset=2**32 - 1),
        tiff(offset=0),
        tiff(entries=0),
        tiff(tag=0x0113),
        tiff(kind=2),
        tiff(value=0),
        tiff(value=9),
    ],
)
def test_invalid_exif_data_means_upright(payload: bytes) -> None:
    assert orientation_of(exif_jpeg(payload)) == 1


def test_more_entries_announced_than_there_are_does_no_harm() -> None:
    assert orientation_of(exif_jpeg(tiff(entries=65_535))) == 6


def test_no_garbage_breaks_the_search_for_an_orientation() -> None:
    rng = random.Random(3)
    readers = {"JPEG": tf_exif.jpeg_orientation, "PNG": tf_exif.png_orientation, "WEBP": tf_exif.webp_orientation}
    exif = Image.Exif()
    exif[0x0112] = 6
    for format, reader in readers.items():
        read = tf.function(reader, input_signature=[tf.TensorSpec([None], tf.uint8)])
        good = file(image(20, 30), format, exif=exif.tobytes())
        for _ in range(100):
            bad = bytearray(good[: rng.randint(0, len(good))])
            for _ in range(min(len(bad), 8)):
                bad[rng.randrange(min(len(bad), 120))] = rng.randrange(256)
            assert 1 <= read(tf.constant(list(bad), tf.uint8)) <= 8


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def oriented_png(chunks_before: int) -> bytes:
    """The beginning of a PNG file: empty chunks, then an EXIF chunk with orientation 6."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"") * chunks_before + png_chunk(b"eXIf", tiff())


def test_the_first_4096_chunks_are_searched_for_an_orientation() -> None:
    read = tf.function(tf_exif.png_orientation, input_signature=[tf.TensorSpec([None], tf.uint8)])
    assert read(tf.io.decode_raw(oriented_png(4095), tf.uint8)) == 6
    assert read(tf.io.decode_raw(oriented_png(4096), tf.uint8)) == 1


def test_the_search_for_an_orientation_does_not_copy_the_file_at_every_chunk() -> None:
    read = tf.function(tf_exif.png_orientation, input_signature=[tf.TensorSpec([None], tf.uint8)])
    file = tf.io.decode_raw(oriented_png(4000) + bytes(50_000_000), tf.uint8)
    read(file[:100])
    before = time.process_time()
    assert read(file) == 6
    assert time.process_time() - before < 5  # It takes 0.3 s; with copies, a minute.


def orientation_of(data: bytes) -> int:
    return int(tf_exif.jpeg_orientation(tf.io.decode_raw(data, tf.uint8)))


def animation() -> bytes:
    return file(image(), "WEBP", save_all=True, append_images=[image().rotate(180)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"RIFF",
        b"RIFF\0\0\0\0WEBP",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        file(image(), "GIF"),
        file(image(), "BMP"),
        file(image(), "JPEG")[:1500],
        file(image(), "PNG")[:1500],
        file(image(), "WEBP")[:500],
        animation(),  # TensorFlow's decoder would abort the process.
    ],
)
def test_what_cannot_be_decoded_is_an_error_and_not_a_crash(data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_in_graph()(data)


def png_of(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(99))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    data = file(image(), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


def webp_of(width: int, height: int) -> bytes:
    data = file(image(), "WEBP")
    assert data[12:16] == b"VP8 "
    return data[:26] + struct.pack("<HH", width, height) + data[30:]


def lossless_webp_of(width: int, height: int) -> bytes:
    data = file(image(), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    return data[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[25:]


def extended_webp_of(width: int, height: int) -> bytes:
    data = file(transparent(image()), "WEBP")
    assert data[12:16] == b"VP8X"
    return data[:24] + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + data[30:]


SIZED = {"PNG": png_of, "JPEG": jpeg_of, "WebP": webp_of, "lossless WebP": lossless_webp_of, "extended WebP": extended_webp_of}


@pytest.mark.parametrize("sides", [(10_001, 10_000), (10_000, 10_001)])
@pytest.mark.parametrize("kind", SIZED)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded_as_in_training(kind: str, sides: tuple[int, int]) -> None:
    too_many = SIZED[kind](*sides)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
        decode_in_graph()(too_many)
    with pytest.raises(decode.ImageError):
        decode.decode(too_many, height=HEIGHT, width=WIDTH)


def test_an_image_of_as_many_pixels_as_allowed_goes_to_the_decoder() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid PNG"):  # Its pixels are missing.
        decode_in_graph()(png_of(10_000, 10_000))


@pytest.mark.parametrize("side", [2**31 - 1, 2**32 - 1])
def test_sides_whose_product_overflows_are_refused(side: int) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
        decode_in_graph()(png_of(side, side))


def test_a_png_whose_first_chunk_is_not_the_header_is_refused() -> None:
    good = file(image(), "PNG")
    hidden = good[:8] + png_chunk(b"teSt", bytes(16)) + good[8:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not begin with its header"):
        decode_in_graph()(hidden)
