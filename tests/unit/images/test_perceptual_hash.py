"""The perceptual hash and the comparison of thumbnails; test_duplicate_search.py has changed posters."""

import numpy as np
import pytest
from PIL import Image

from trainer.images import perceptual_hash

SIDE, CELLS = 18, 8


def thumbnail(grey):
    return np.asarray(grey).clip(0, 255).astype(np.uint8).tobytes()


def bits(thumbnail_bytes):
    """The bits of a hash, bool [pieces, 16]."""
    hashed = np.frombuffer(perceptual_hash.compute(thumbnail_bytes), np.uint8)
    return np.unpackbits(hashed).reshape(perceptual_hash.PIECES, 16).astype(bool)


def ramp(across, down):
    step = np.arange(SIDE)
    return 128 + across * (step - 9) + down * (step[:, np.newaxis] - 9)


def test_a_thumbnail_is_the_image_in_grey_at_18_by_18():
    pixels = np.zeros((90, 60, 3), np.uint8)
    pixels[:45], pixels[45:] = (255, 0, 0), (0, 0, 255)
    found = np.frombuffer(perceptual_hash.thumbnail(pixels), np.uint8)
    assert len(found) == perceptual_hash.THUMBNAIL_BYTES == SIDE * SIDE
    grey = found.reshape(SIDE, SIDE)
    np.testing.assert_array_equal(grey[:8], 76)
    np.testing.assert_array_equal(grey[10:], 29)


@pytest.mark.parametrize(
    ("across", "down", "lighter"), [(6, 0, 64), (0, 6, 64), (3, 4, 128), (-3, -4, 0), (6, -1, 64), (-1, 6, 64)]
)
def test_a_bit_says_whether_a_cell_is_lighter_than_its_left_or_upper_neighbour(across, down, lighter):
    found = bits(thumbnail(ramp(across, down)))
    assert found.sum() == lighter
    if lighter == 64:
        # In each piece, which mixes both directions, it is half the bits.
        assert (found.sum(axis=1) == 8).all()


def test_the_two_directions_are_told_apart():
    assert not (bits(thumbnail(ramp(6, 0))) & bits(thumbnail(ramp(0, 6)))).any()


def test_brightness_and_contrast_change_no_bit():
    random = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(random.integers(60, 160, (5, 5), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(bits(thumbnail(image)), bits(thumbnail(image.astype(int) + 40)))
    assert (bits(thumbnail(image)) != bits(thumbnail(image.astype(float) * 1.5))).sum() <= 3


def test_a_change_in_one_place_changes_few_bits_of_each_piece():
    # So that a hash has untouched pieces even where many of its bits differ: rows and columns are spread over all pieces.
    image = ramp(5, 2)
    for lines in (np.s_[8:10, :], np.s_[:, 8:10]):
        changed = image.copy()
        changed[lines] = 255 - changed[lines]
        differing = (bits(thumbnail(image)) != bits(thumbnail(changed))).sum(axis=1)
        assert differing.sum() >= 8
        assert differing.max() <= 8


@pytest.mark.parametrize(("distance", "hashed"), [(0, False), (2, False), (3, True), (4, True)])
def test_an_image_almost_of_one_colour_has_no_hash(distance, hashed):
    grey = np.full((SIDE, SIDE), 100)
    grey[: SIDE // 2] += distance
    grey[SIDE // 2 :] -= distance  # The standard deviation is this distance.
    assert len(perceptual_hash.compute(thumbnail(grey))) == (2 * perceptual_hash.PIECES if hashed else 0)


def test_each_pair_of_thumbnails_is_judged_by_itself():
    random = np.random.default_rng(1)
    one, other = (thumbnail(random.integers(0, 256, (SIDE, SIDE))) for _ in range(2))
    lighter = thumbnail(np.frombuffer(one, np.uint8).astype(int) * 0.7 + 40)
    inverted = thumbnail(255 - np.frombuffer(one, np.uint8).astype(int))
    found = perceptual_hash.are_alike([one, one, other, one, one], [one, other, other, lighter, inverted])
    assert found.tolist() == [True, False, True, True, False]


def test_a_margin_of_strong_contrast_does_not_outweigh_the_rest():
    random = np.random.default_rng(2)
    image = random.integers(90, 160, (SIDE, SIDE))
    with_bar, other = image.copy(), random.integers(90, 160, (SIDE, SIDE))
    with_bar[16:] = 0
    other[16:] = 0
    found = perceptual_hash.are_alike([thumbnail(image), thumbnail(with_bar)], [thumbnail(with_bar), thumbnail(other)])
    assert found.tolist() == [True, False]
