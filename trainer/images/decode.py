"""From the bytes of a picture file to the pixels that the network sees.

What is done here to a poster before training is done again by the exported model when it serves (trainer/model/export.py): change
both or neither.
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

# What Pillow's decoders raise on bytes that are not what they claim to be.
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
    """A picture that cannot be used.

    Attributes:
      reason: which of the reasons of rejects.csv it is.
      detail: what is wrong with this picture, in a few words without paths, times or addresses.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


def read(file: Path | epath.Path) -> bytes:
    """Reads a picture file, local or in a bucket.

    Raises:
      PictureError: there is none, it is not a regular file (a device or a pipe may never end), it has more than
        `MAX_FILE_BYTES`, or
        it cannot be read.
      OSError: of `TRANSIENT_ERRNOS`; it may be read later.
    """
    try:
        if not file.is_file():
            raise ImageError(Reason.NO_PICTURE, "not a regular file" if file.exists() else "no such file")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if error.errno in TRANSIENT_ERRNOS:
            raise
        raise ImageError(Reason.NO_PICTURE, f"it cannot be read: {error.strerror or type(error).__name__}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(Reason.TOO_LARGE, f"more than {MAX_FILE_BYTES:,} bytes")
    return data


def decode(data: bytes, *, height: int, width: int) -> Image.Image:
    """Decodes a JPEG, PNG or WebP file.

    The EXIF orientation is applied, transparency is composited over white, CMYK, greyscale, palette and 16-bit pictures are
    converted. Colour profiles are ignored, as TensorFlow's decoders ignore them. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its
    scale, as long as neither side falls below `height` or `width`: libjpeg then leaves out the frequencies that the smaller picture
    cannot show, which makes decoding and resizing together twice as fast. After the resizing the mean difference on real posters is
    2.6 grey levels (of 300 × 450 pixels, to 128 × 192).

    Args:
      data: the bytes of the file.
      height: the height in pixels that the picture will be resized to.
      width: the width in pixels that the picture will be resized to.

    Returns:
      The picture in mode RGB, at its own size or, for a JPEG, a reduced one.

    Raises:
      PictureError: the file is empty, cut off, damaged, of another format or has more than `MAX_PIXELS`, which is read from its
        header before anything is decoded.
    """
    with _opened(data) as image:
        return _to_rgb(_load(image, height=height, width=width))


def check_header(data: bytes) -> None:
    """Checks what a file says of itself, in a tenth of the time that decoding takes: whether its pixels are whole stays unknown.

    Args:
      data: the bytes of the file.

    Raises:
      PictureError: the file is empty, of a format that `decode` does not take or has more than `MAX_PIXELS`.
    """
    with _opened(data):
        pass


def resize(image: Image.Image, *, height: int, width: int) -> np.ndarray:
    """Stretches a picture to a size, with the cubic kernel of Keys (a = -0.5, widened when shrinking so that nothing aliases).

    It is the kernel of `tf.image.resize(method="bicubic", antialias=True)`. Source: R. Keys, "Cubic convolution interpolation for
    digital image processing", IEEE Transactions on Acoustics, Speech, and Signal Processing 29 (1981), 1153-1160.

    Args:
      image: a picture in mode RGB.
      height: the new height in pixels.
      width: the new width in pixels.

    Returns:
      uint8 [height, width, 3].
    """
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [height, width, 3] as a JPEG file.

    Posters are lettering and flat saturated colours, where halved chroma and coarse quantisation show. At quality 95 without
    subsampling the mean error on real posters is 1.6 grey levels, for a quarter of the bytes of raw pixels.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue()


def format_of(data: bytes) -> str | None:
    """Tells JPEG, PNG and WebP by a file's first bytes; None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return None


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Opens a file whose header is good; what goes wrong meanwhile, there or in the block, is a `PictureError`."""
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    if format_of(data) is None:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"neither JPEG, PNG nor WebP: it begins with {data[:8]!r}")
    try:
        # Pillow warns of damaged metadata and of large pictures; the first do no harm and the second are refused here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if format_of(data) == "PNG":
                # Pillow decodes pixels whose checksums are wrong; TensorFlow, which serves, does not.
                with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                    image.verify()
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(Reason.TOO_LARGE, f"{image.width} x {image.height} pixels")
                if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                    raise ImageError(Reason.UNSUPPORTED_FORMAT, "an animation, not a picture")
                yield image
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, f"more than {MAX_PIXELS:,} pixels") from error
    except _DECODE_ERRORS as error:
        if _is_cut_off(data):
            raise ImageError(Reason.TRUNCATED, f"its end is missing after {len(data)} bytes") from error
        raise ImageError(Reason.CORRUPT, f"its {format_of(data)} data cannot be decoded") from error


def _is_cut_off(data: bytes) -> bool:
    match format_of(data):
        case "JPEG":
            return b"\xff\xd9" not in data[-1024:]  # Some programs append a few bytes to the end marker.
        case "PNG":
            return b"IEND" not in data[-1024:]
        case _:
            return len(data) < 12 or len(data) < struct.unpack_from("<I", data, 4)[0] + 8


def _load(image: Image.Image, *, height: int, width: int) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    lies_on_its_side = turn in (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    across, down = (height, width) if lies_on_its_side else (width, height)
    image.draft(None, (across, down))  # Only JPEG has drafts; the other formats ignore it.
    image.load()
    return image.transpose(turn) if turn is not None else image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1  # Damaged metadata around a good picture.


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip, not scale.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
