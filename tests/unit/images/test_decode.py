"""Tests of decoding images of every supported kind, and of the reasons for which others are rejected."""

import errno
import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from trainer.dataset.rejects import Reason
from trainer.images import decode
from trainer.images.decode import ImageError

HEIGHT, WIDTH = 48, 32


def drawn(height: int = 96, width: int = 64) -> Image.Image:
    """An image whose corners differ: red top left, green top right, blue bottom left, grey bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    half_height, half_width = height // 2, width // 2
    pixels[:half_height, :half_width] = (200, 30, 30)
    pixels[:half_height, half_width:] = (30, 200, 30)
    pixels[half_height:, :half_width] = (30, 30, 200)
    pixels[half_height:, half_width:] = (128, 128, 128)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def seen(data: bytes) -> np.ndarray:
    return decode.resize(decode.decode(data, height=HEIGHT, width=WIDTH), height=HEIGHT, width=WIDTH).astype(int)


def corners(pixels: np.ndarray) -> np.ndarray:
    quarter = (slice(4, HEIGHT // 2 - 4), slice(HEIGHT // 2 + 4, -4)), (slice(4, WIDTH // 2 - 4), slice(WIDTH // 2 + 4, -4))
    return np.array([[pixels[rows, columns].mean((0, 1)) for columns in quarter[1]] for rows in quarter[0]])


EXPECTED = np.array([[(200, 30, 30), (30, 200, 30)], [(30, 30, 200), (128, 128, 128)]])


@pytest.mark.parametrize(
    "data",
    [
        encoded(drawn(), "JPEG", quality=95),
        encoded(drawn(), "JPEG", quality=95, progressive=True),
        encoded(drawn(), "PNG"),
        encoded(drawn().quantize(8), "PNG"),
        encoded(drawn(), "WEBP", lossless=True),
        encoded(drawn().convert("RGBA"), "PNG"),
        encoded(drawn(960, 640), "JPEG", quality=95),
        encoded(drawn().convert("CMYK"), "JPEG", quality=95),
    ],
    ids=["jpeg", "progressive", "png", "palette", "webp", "alpha", "large jpeg", "cmyk"],
)
def test_every_kind_looks_the_same(data: bytes):
    np.testing.assert_allclose(corners(seen(data)), EXPECTED, atol=4)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_images_have_three_equal_channels(mode: str):
    grey = drawn().convert("L").convert(mode)
    pixels = seen(encoded(grey, "PNG"))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_16_bits_of_grey_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[np.newaxis].repeat(96, 0)
    pixels = seen(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_allclose(pixels[24, [0, 16, 31], 0], [2, 131, 253], atol=4)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_shows_white(format: str):
    image = drawn().convert("RGBA")
    alpha = np.full((96, 64), 255, np.uint8)
    alpha[:48, :32] = 0
    alpha[:48, 32:] = 128
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True} if format == "WEBP" else {}
    found = corners(seen(encoded(image, format, **options)))
    np.testing.assert_allclose(found[0], [(255, 255, 255), (142, 227, 142)], atol=2)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_shows_white(mode: str):
    image = Image.new("RGB", (64, 96), "black").convert(mode)
    transparent = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    assert (seen(encoded(image, "PNG", transparency=transparent)) == 255).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "undone_by"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_applied(format: str, orientation: int, undone_by: Image.Transpose):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = drawn(960, 640).transpose(undone_by)
    np.testing.assert_allclose(corners(seen(encoded(stored, format, exif=exif, quality=95))), EXPECTED, atol=8)


def test_damaged_exif_data_does_no_harm():
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    np.testing.assert_allclose(corners(seen(encoded(drawn(), "JPEG", quality=95, exif=exif))), EXPECTED, atol=4)


def test_a_jpeg_is_decoded_at_the_least_scale_that_is_not_below_the_target():
    data = encoded(drawn(960, 640), "JPEG")
    assert decode.decode(data, height=48, width=32).size == (80, 120)
    assert decode.decode(data, height=192, width=128).size == (160, 240)
    assert decode.decode(data, height=241, width=128).size == (320, 480)
    assert decode.decode(data, height=481, width=128).size == (640, 960)
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6
    lying = encoded(drawn(640, 960), "JPEG", exif=on_its_side)
    assert decode.decode(lying, height=192, width=128).size == (160, 240)


def test_decoding_at_a_reduced_scale_hardly_changes_the_image():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).resize((640, 960), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(seen(data) - whole).mean() < 1


def test_the_stored_jpeg_is_within_a_grey_level():
    pixels = np.asarray(drawn(96, 64).resize((32, 48), Image.Resampling.BICUBIC))
    stored = np.asarray(Image.open(io.BytesIO(decode.encode_jpeg(pixels))))
    assert np.abs(stored.astype(int) - pixels).mean() < 1


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


JPEG = encoded(drawn(), "JPEG")
PNG = encoded(drawn(), "PNG", compress_level=0)
WEBP = encoded(drawn(), "WEBP")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (JPEG[: len(JPEG) // 2], Reason.TRUNCATED),
        (PNG[: len(PNG) // 2], Reason.TRUNCATED),
        (WEBP[: len(WEBP) // 2], Reason.TRUNCATED),
        (JPEG[:3], Reason.TRUNCATED),
        (PNG[:20], Reason.TRUNCATED),
        (WEBP[:12], Reason.TRUNCATED),
        (WEBP[:-2], Reason.TRUNCATED),
        (JPEG[:20] + bytes(200) + JPEG[-2:], Reason.CORRUPT),
        (PNG[:40] + bytes(20) + PNG[60:], Reason.CORRUPT),
        (WEBP[:20] + bytes(len(WEBP) - 20), Reason.CORRUPT),
        (png_claiming(20_000, 20_000), Reason.TOO_LARGE),
        (png_claiming(10_001, 10_000), Reason.TOO_LARGE),
        (png_claiming(2**31 - 1, 2**31 - 1), Reason.TOO_LARGE),
        (encoded(drawn(), "GIF"), Reason.UNSUPPORTED_FORMAT),
        (encoded(drawn(), "BMP"), Reason.UNSUPPORTED_FORMAT),
        (b"<html>not found</html>", Reason.UNSUPPORTED_FORMAT),
        (encoded(drawn(), "WEBP", save_all=True, append_images=[drawn().rotate(90)]), Reason.UNSUPPORTED_FORMAT),
        (encoded(drawn(), "PNG", save_all=True, append_images=[drawn().rotate(90)]), Reason.UNSUPPORTED_FORMAT),
    ],
)
def test_bad_images_are_rejected_with_their_reason(data: bytes, reason: Reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # Objects of other tests may be garbage-collected here.
        with pytest.raises(ImageError) as caught:
            seen(data)
    assert caught.value.reason is reason
    assert caught.value.detail


def test_of_a_jpeg_with_several_images_the_first_counts():
    several = encoded(drawn(), "MPO", quality=95, save_all=True, append_images=[drawn().rotate(180)])
    np.testing.assert_allclose(corners(seen(several)), EXPECTED, atol=4)


@pytest.mark.parametrize(
    "kind", [OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error]
)
def test_whatever_a_decoder_raises_for_a_damaged_file_is_a_reason(kind: type[Exception], monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object, **__: object) -> None:
        raise kind("deep in a decoder")

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(ImageError, match=r"^corrupt: the JPEG data cannot be decoded$"):
        seen(JPEG)


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_no_other_decoder_of_pillow_sees_a_file(data: bytes, monkeypatch: pytest.MonkeyPatch):
    opening, tried = Image.open, []

    def opened(*arguments: Any, **options: Any) -> Any:
        tried.append(set(options.get("formats") or {"all"}))
        return opening(*arguments, **options)

    monkeypatch.setattr(Image, "open", opened)
    seen(data)
    assert set().union(*tried) <= {"JPEG", "PNG", "WEBP"}


@pytest.mark.parametrize("kind", [SyntaxError, ValueError, struct.error])
def test_exif_data_that_cannot_be_read_does_no_harm(kind: type[Exception], monkeypatch: pytest.MonkeyPatch):
    def failing(_: object) -> None:
        raise kind("damaged")

    monkeypatch.setattr(Image.Image, "getexif", failing)
    np.testing.assert_allclose(corners(seen(PNG)), EXPECTED, atol=4)


def test_the_header_alone_is_checked_without_decoding():
    decode.check_header(JPEG)
    decode.check_header(JPEG[:-100])
    for data, reason in (
        (b"", Reason.EMPTY),
        (b"text", Reason.UNSUPPORTED_FORMAT),
        (png_claiming(10_001, 10_000), Reason.TOO_LARGE),
    ):
        with pytest.raises(ImageError) as caught:
            decode.check_header(data)
        assert caught.value.reason is reason


def test_every_prefix_of_an_image_decodes_or_is_rejected():
    for whole in (JPEG, WEBP, encoded(drawn(), "PNG")):
        for size in range(0, len(whole), 7):
            try:
                seen(whole[:size])
            except ImageError as error:
                assert error.reason in (Reason.EMPTY, Reason.TRUNCATED, Reason.UNSUPPORTED_FORMAT), size


def test_an_image_file_is_read(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert decode.read(tmp_path / "a.png") == PNG
    assert decode.read(epath.Path(tmp_path) / "a.png") == PNG


def test_a_file_of_the_largest_size_is_read_and_a_longer_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(PNG))
    assert decode.read(tmp_path / "a.png") == PNG
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(PNG) - 1)
    with pytest.raises(ImageError, match=r"^too_large: "):
        decode.read(tmp_path / "a.png")


def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    found = {}
    for path in (tmp_path / "none.jpg", tmp_path / "pipe.jpg", tmp_path / "zero.jpg", tmp_path, Path("x\0.jpg")):
        with pytest.raises(ImageError) as caught:
            decode.read(path)
        assert caught.value.reason is Reason.NO_PICTURE
        found[path.name] = caught.value.detail
    assert found["none.jpg"] == "no such file"
    assert found["pipe.jpg"] == found["zero.jpg"] == found[tmp_path.name] == "not a regular file"


def test_a_failing_file_system_is_not_the_fault_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(number: int) -> None:
        def failing(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "open", failing)

    (tmp_path / "a.jpg").write_bytes(PNG)
    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        fail(number)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            decode.read(tmp_path / "a.jpg")
    fail(errno.EACCES)
    with pytest.raises(ImageError, match="it cannot be read: Permission denied"):
        decode.read(tmp_path / "a.jpg")


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path: Path):
    path = tmp_path / "long.jpg"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ImageError) as caught:
        decode.read(path)
    assert caught.value.reason is Reason.TOO_LARGE
    assert caught.value.detail == "more than 268,435,456 bytes"
