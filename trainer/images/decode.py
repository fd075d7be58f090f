"""Turns the bytes of an image file into the pixels that the network sees.

The exported model repeats these steps with TensorFlow when it serves (trainer/images/tf_decode.py): change both or neither.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image

from trainer.dataset.rejects import Reason
from trainer.errors import TRANSIENT_ERRNOS

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000

# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """An image that cannot be used.

    Attributes:
      reason: The reason, as rejects.csv names it.
      detail: What is wrong with this image, in a few words. No paths, times or addresses, as equal runs must give equal texts.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


def read(file: Path | epath.Path) -> bytes:
    """Reads an image file.

    Args:
      file: Local path or `gs://` URI.

    Returns:
      The file's bytes.

    Raises:
      ImageError: The file does not exist, is not a regular file (a device or pipe may never end), has more than `MAX_FILE_BYTES`,
        or cannot be read.
      OSError: One of `TRANSIENT_ERRNOS`: a later try may succeed.
    """
    data = read_start(file, MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(Reason.TOO_LARGE, f"more than {MAX_FILE_BYTES:,} bytes")
    return data


def read_start(file: Path | epath.Path, count: int) -> bytes:
    """Reads at most `count` bytes at the beginning of an image file; raises the same errors as `read`, except for its size."""
    try:
        if not file.is_file():
            raise ImageError(Reason.NO_PICTURE, "not a regular file" if file.exists() else "no such file")
        with file.open("rb") as opened:
            return opened.read(count)
    except OSError as error:
        if error.errno in TRANSIENT_ERRNOS:
            raise
        raise ImageError(Reason.NO_PICTURE, f"it cannot be read: {error.strerror or type(error).__name__}") from error


def decode(data: bytes, *, height: int, width: int) -> Image.Image:
    """Decodes a JPEG, PNG or WebP file.

    The EXIF orientation is applied and transparency is composited over white. CMYK, greyscale, palette and 16-bit images are
    converted to RGB. Colour profiles are ignored, as TensorFlow's decoders ignore them.

    A JPEG may be decoded at 1/2, 1/4 or 1/8 of its scale, as long as neither side falls below `height` or `width`. libjpeg then
    leaves out the frequencies that the smaller image cannot show, so that decoding and resizing together take half the time. On
    real posters (300 × 450 pixels, resized to 128 × 192) this changes the pixels by 2.6 grey levels on average.

    Args:
      data: Bytes of the file.
      height: Height in pixels that the image will be resized to.
      width: Width in pixels that the image will be resized to.

    Returns:
      The image in mode RGB, at its own size or, for a JPEG, a reduced one.

    Raises:
      ImageError: The file is empty, truncated, damaged, of another format or has more than `MAX_PIXELS`. The number of pixels is
        read from the header, before anything is decoded.
    """
    with _opened(data) as image:
        return _to_rgb(_load(image, height=height, width=width))


def check_header(data: bytes) -> None:
    """Checks the header of a JPEG, PNG or WebP file in a tenth of the time that decoding takes. The pixels may still be damaged.

    Args:
      data: Bytes of the file.

    Raises:
      ImageError: The file is empty, of a format that `decode` does not support or has more than `MAX_PIXELS`.
    """
    with _opened(data):
        pass


def resize(image: Image.Image, *, height: int, width: int) -> np.ndarray:
    """Resizes an image by cubic interpolation, without keeping its aspect ratio.

    The kernel is Keys' cubic kernel with a = -0.5, widened when shrinking to avoid aliasing. `tf.image.resize(method="bicubic",
    antialias=True)` uses the same kernel. Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE
    Transactions on Acoustics, Speech, and Signal Processing 29 (1981), 1153-1160.

    Args:
      image: Image in mode RGB.
      height: New height in pixels.
      width: New width in pixels.

    Returns:
      Pixels, uint8 [height, width, 3].
    """
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes pixels as a JPEG file, at quality 95 without chroma subsampling.

    Posters consist of lettering and flat saturated colours, on which subsampling and coarse quantization show. With these
    settings the mean error on real posters is 1.6 grey levels, and a file takes a quarter of the bytes of the raw pixels.

    Args:
      pixels: Pixels, uint8 [height, width, 3].

    Returns:
      Bytes of the file.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue()


def format_of(data: bytes) -> str | None:
    """Returns the format of a file by its first bytes: "JPEG", "PNG" or "WebP", or None for any other format."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return None


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Opens a file after checking its header. Any decoding error, here or in the `with` block, becomes an `ImageError`."""
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    if format_of(data) is None:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"neither JPEG, PNG nor WebP: it begins with {data[:8]!r}")
    try:
        # Pillow warns about damaged metadata, which does no harm, and about large images, which are refused below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if format_of(data) == "PNG":
                # Pillow would decode pixels with wrong checksums; TensorFlow, which serves, does not.
                with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                    image.verify()
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(Reason.TOO_LARGE, f"{image.width} x {image.height} pixels")
                if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                    raise ImageError(Reason.UNSUPPORTED_FORMAT, "an animation, not a still image")
                yield image
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, f"more than {MAX_PIXELS:,} pixels") from error
    except _DECODE_ERRORS as error:
        if _is_truncated(data):
            raise ImageError(Reason.TRUNCATED, f"the file ends early, after {len(data)} bytes") from error
        raise ImageError(Reason.CORRUPT, f"the {format_of(data)} data cannot be decoded") from error


def _is_truncated(data: bytes) -> bool:
    match format_of(data):
        case "JPEG":
            return b"\xff\xd9" not in data[-1024:]  # Some programs append a few bytes after the end marker.
        case "PNG":
            return b"IEND" not in data[-1024:]
        case _:
            return len(data) < struct.unpack_from("<I", data, 4)[0] + 8


def _load(image: Image.Image, *, height: int, width: int) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    is_sideways = turn in (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    across, down = (height, width) if is_sideways else (width, height)
    image.draft(None, (across, down))  # Only JPEG has drafts; other formats ignore this call.
    image.load()
    return image.transpose(turn) if turn is not None else image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1  # Damaged metadata around a good image.


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip instead of scale.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
