"""Whether two pictures are the same poster: a hash that finds who may be, and a closer look at those that it finds.

The hash is that of N. Krawetz, "Kind of Like That" (hackerfactor.com, 2013), in both directions: for each cell of a coarse grid
whether it is lighter than the one on its left, and than the one above. Another size, another quality, brightness or contrast leave
nearly all of that as it is. But so do by chance some pictures that have nothing in common except a light middle: they differ in
their details, which the closer look compares.

How the limits were found: on 600 real posters, each changed in twelve ways, and on all pairs of 7,233. Of those pairs 42 different
pictures are within `MAX_DISTANCE`, of which the closer look leaves one, a shop's placeholder with two titles (0.87; the next has
0.66). Found are all posters that were stored at quality 40 or at half the size or have 0.7 times the contrast or brightness, 99 %
of those with 1.3 times the brightness, 99 % of those that lost 3 % of their height and width, 93 % that lost 6 %, 98 % with another
bar over an eighth of their height; but 5 % of those with a white margin below that takes 8 % of the height.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

_SIDE = 18
_CELLS = 8  # On each side of the grid that is hashed.
THUMBNAIL_BYTES = _SIDE * _SIDE
PIECES = 8  # Of a hash of 128 bits; a piece is a uint16.
MAX_DISTANCE = 15  # Bits.

_LEAST_CONTRAST = 3  # Grey levels: the flattest of the real posters has 5, a black picture as JPEG less than 1.
_LEAST_LIKENESS = 0.7

# Bits of neighbouring cells often agree: a piece has one cell of each row and of each column, so that few pictures share it.
_PIECE_OF_CELL = (np.arange(_CELLS) + 3 * np.arange(_CELLS)[:, np.newaxis]) % PIECES
_ORDER = np.argsort(np.concatenate([_PIECE_OF_CELL.ravel()] * 2), kind="stable")


def thumbnail(pixels: np.ndarray) -> bytes:
    """Returns what is compared of a picture.

    Args:
      pixels: uint8 [height, width, 3].

    Returns:
      Its grey levels at 18 × 18, row by row, uint8.
    """
    return Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).tobytes()


def compute(of: bytes) -> bytes:
    """Hashes a thumbnail.

    Returns:
      `PIECES` uint16; or nothing where the picture is almost of one colour, which says nothing of whose it is.
    """
    grey = np.frombuffer(of, np.uint8).reshape(_SIDE, _SIDE)
    if grey.std() < _LEAST_CONTRAST:
        return b""
    cells = np.asarray(Image.fromarray(grey).resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BILINEAR))
    lighter = np.concatenate([(cells[:-1, 1:] > cells[:-1, :-1]).ravel(), (cells[1:, :-1] > cells[:-1, :-1]).ravel()])
    return np.packbits(lighter[_ORDER]).tobytes()


def are_alike(ones: Sequence[bytes], others: Sequence[bytes]) -> np.ndarray:
    """Looks closer at pairs of pictures whose hashes are near each other.

    The steps from cell to cell of the thumbnails are compared by their cosine, and by their roots, so that a white margin or the
    edge of a bar does not outweigh the rest.

    Args:
      ones: n thumbnails.
      others: n thumbnails.

    Returns:
      bool [n].
    """
    one, other = _steps(ones), _steps(others)
    product = np.einsum("ij,ij->i", one, other)
    return product >= _LEAST_LIKENESS * np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)


def _steps(thumbnails: Sequence[bytes]) -> np.ndarray:
    grey = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, _SIDE, _SIDE).astype(np.float32)
    steps = np.concatenate([np.diff(grey, axis=axis).reshape(len(grey), -1) for axis in (1, 2)], axis=1)
    return np.sign(steps) * np.sqrt(np.abs(steps))
