"""Recognizes images of the same poster: a perceptual hash finds candidate pairs, and their thumbnails confirm them.

The hash is dHash in both directions (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013). For each cell of a coarse grid it
stores whether the cell is lighter than its left neighbour, and whether it is lighter than the cell above. A change of size,
quality, brightness or contrast changes few of these bits. But some unrelated images agree in nearly all bits by chance, for
example because both are light in the middle. They differ in their details, so a second step compares the gradients of their
thumbnails.

The limits were chosen on 600 real posters, each changed in twelve ways, and on all pairs of 7,233 posters:
  - False positives: 42 pairs of different images are within `MAX_DISTANCE`. The second step rejects all but one, a shop's
    placeholder used for two films (similarity 0.87; the next pair has 0.66).
  - Recall: 100 % for JPEG quality 40, half the size, or 0.7 times the contrast or brightness; 99 % for 1.3 times the brightness;
    99 % after cropping 3 % of height and width, 93 % after cropping 6 %; 98 % with another bar over an eighth of the height; but
    5 % with a white margin at the bottom that takes 8 % of the height.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

_SIDE = 18
_CELLS = 8  # Cells on each side of the hashed grid.
THUMBNAIL_BYTES = _SIDE * _SIDE
PIECES = 8  # A hash has 128 bits, in pieces of uint16.
MAX_DISTANCE = 15  # Differing bits of two hashes.

_MIN_CONTRAST = 3  # Standard deviation in grey levels. The flattest real poster has 5, a black JPEG less than 1.
_MIN_SIMILARITY = 0.7  # Cosine.

# Bits of neighbouring cells often agree. A piece takes one cell of each row and column, so that few images share it.
_PIECE_OF_CELL = (np.arange(_CELLS) + 3 * np.arange(_CELLS)[:, np.newaxis]) % PIECES
_ORDER = np.argsort(np.concatenate([_PIECE_OF_CELL.ravel()] * 2), kind="stable")


def thumbnail(pixels: np.ndarray) -> bytes:
    """Shrinks an image to the thumbnail that is hashed and compared.

    Args:
      pixels: Pixels of the image, uint8 [height, width, 3].

    Returns:
      Grey levels of 18 × 18 pixels, one byte each, row by row.
    """
    return Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).tobytes()


def compute(thumbnail_bytes: bytes) -> bytes:
    """Hashes a thumbnail.

    Args:
      thumbnail_bytes: A thumbnail that `thumbnail` returned.

    Returns:
      `PIECES` uint16 numbers; or no bytes if the image is almost of one colour, so that it identifies no poster.
    """
    grey = np.frombuffer(thumbnail_bytes, np.uint8).reshape(_SIDE, _SIDE)
    if grey.std() < _MIN_CONTRAST:
        return b""
    cells = np.asarray(Image.fromarray(grey).resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BILINEAR))
    lighter = np.concatenate([(cells[:-1, 1:] > cells[:-1, :-1]).ravel(), (cells[1:, :-1] > cells[:-1, :-1]).ravel()])
    return np.packbits(lighter[_ORDER]).tobytes()


def are_alike(ones: Sequence[bytes], others: Sequence[bytes]) -> np.ndarray:
    """Compares the thumbnails of pairs of images whose hashes are near each other.

    The measure is the cosine similarity of the thumbnails' gradients. The gradients enter by their square roots, so that a white
    margin or the edge of a bar does not outweigh the rest.

    Args:
      ones: Thumbnail of the first image of each of n pairs.
      others: Thumbnail of the second image of each pair.

    Returns:
      Whether each pair shows the same poster, bool [n].
    """
    one, other = _gradients(ones), _gradients(others)
    product = np.einsum("ij,ij->i", one, other)
    return product >= _MIN_SIMILARITY * np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)


def _gradients(thumbnails: Sequence[bytes]) -> np.ndarray:
    """Returns the signed square roots of the differences between neighbouring pixels, float32 [n, differences]."""
    grey = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, _SIDE, _SIDE).astype(np.float32)
    differences = np.concatenate([np.diff(grey, axis=axis).reshape(len(grey), -1) for axis in (1, 2)], axis=1)
    return np.sign(differences) * np.sqrt(np.abs(differences))
