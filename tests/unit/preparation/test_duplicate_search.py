"""Posters that occur in two splits are found, whatever has been done to them, and others are not."""

import io
import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from trainer.dataset import near_duplicates
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.demo import posters as demo_posters
from trainer.images import perceptual_hash
from trainer.preparation import duplicate_search, hamming
from trainer.preparation.duplicate_search import Poster

GENRES = tuple(demo_posters.STYLES)


@cache
def poster(number: int) -> Image.Image:
    rng = random.Random(number)
    return demo_posters.draw(f"The Film {number}", rng.sample(GENRES, 2), rng)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    across, down = round(image.width * 0.015), round(image.height * 0.015)
    return image.crop((across, down, image.width - across, image.height - down))


def with_another_bar(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).rectangle((0, round(image.height * 0.9), image.width, image.height), (20, 20, 60))
    return image


def found(images: dict[str, tuple[str, Image.Image]]) -> list[NearDuplicate]:
    """Finds the near-duplicates among images, given by the films' ids with their splits."""
    thumbnails = {
        film_id: perceptual_hash.thumbnail(np.asarray(image.resize((96, 144), Image.Resampling.BICUBIC)))
        for film_id, (_, image) in images.items()
    }
    posters = [Poster(film_id, split, perceptual_hash.compute(thumbnails[film_id])) for film_id, (split, _) in images.items()]
    return duplicate_search.find(posters, thumbnails.__getitem__)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality": lambda image: as_jpeg(image, 40),
    "size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "crop": cropped,
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "bar": with_another_bar,
    "all at once": lambda image: as_jpeg(cropped(with_another_bar(image)).resize((90, 130)), 40),
}


def test_a_changed_poster_is_found_in_another_split_and_no_other_is():
    images = {f"train {number}": ("train", poster(number)) for number in range(12)}
    images |= {f"test {name}": ("test", change(poster(number))) for number, (name, change) in enumerate(CHANGES.items())}
    images["train again"] = ("train", as_jpeg(poster(11), 40))  # In its own split.
    images["test new"] = ("test", poster(99))
    both = {(one.id, one.split, one.other_id, one.other_split) for one in found(images)}
    expected = {(f"test {name}", "test", f"train {number}", "train") for number, name in enumerate(CHANGES)}
    assert both == expected | {(other, "train", film, "test") for film, _, other, _ in expected}


def test_of_several_in_a_split_the_nearest_is_named_and_the_order_of_films_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicate_search, "_PAIRS_AT_A_TIME", 1)
    images = {
        "far": ("train", cropped(poster(1))),
        "near": ("train", poster(1)),
        "near too": ("train", poster(1)),
        "film": ("test", poster(1)),
        "last": ("validation", as_jpeg(poster(1), 40)),
    }
    rows = found(images)
    assert [(row.id, row.other_id) for row in rows][:4] == [("far", "last"), ("far", "film"), ("film", "near"), ("film", "last")]
    assert [row.distance for row in rows if {row.id, row.other_id} == {"film", "near"}] == [0, 0]
    assert near_duplicates.counts(rows) == dict.fromkeys([("train", "test"), ("train", "validation")], 3) | dict.fromkeys(
        [("test", "train"), ("test", "validation"), ("validation", "train"), ("validation", "test")], 1
    )
    shuffled = list(images.items())
    random.Random(0).shuffle(shuffled)
    assert found(dict(shuffled)) == rows


def test_images_of_one_colour_are_not_near_duplicates():
    flat = [Image.new("RGB", (90, 135), colour) for colour in ("black", "white", (70, 80, 200))]
    flat += [as_jpeg(ImageEnhance.Contrast(poster(1)).enhance(0.02), 40)]
    assert not found({f"{split} {n}": (split, image) for split in ("train", "test") for n, image in enumerate(flat)})


def test_images_whose_hashes_are_near_by_chance_are_not_near_duplicates():
    # Both get lighter to the right and downwards, but one mostly to the right and the other mostly downwards.
    ramps = [np.add.outer(np.linspace(0, down, 144), np.linspace(0, 240 - down, 96)) for down in (30, 210)]
    one, other = (Image.fromarray(ramp.astype(np.uint8)).convert("RGB") for ramp in ramps)
    hashes = [perceptual_hash.compute(perceptual_hash.thumbnail(np.asarray(image))) for image in (one, other)]
    assert hashes[0] == hashes[1]
    assert not found({"one": ("train", one), "other": ("test", other)})


def test_no_film_and_films_of_one_split_have_no_near_duplicates():
    assert found({}) == []
    assert found({"one": ("train", poster(1)), "other": ("train", poster(1))}) == []


@pytest.mark.parametrize("ones", [0.5, 0.05], ids=["even", "mostly dark"])
def test_the_tables_find_what_comparing_each_with_each_finds(monkeypatch: pytest.MonkeyPatch, ones: float):
    monkeypatch.setattr(hamming, "_CANDIDATES_AT_A_TIME", 100)
    rng = np.random.default_rng(1)
    bits = rng.random((400, 128)) < ones
    bits[200:] = bits[:200] ^ (rng.random((200, 128)) < rng.uniform(0, 0.2, (200, 1)))
    hashes = np.packbits(bits, axis=1).view(np.uint16)
    queries = np.arange(0, 400, 3)
    expected = {(q, n, d) for q in queries for n, d in enumerate((bits[q] ^ bits).sum(1)) if d <= 15}
    assert {15, 14} <= {d for *_, d in expected}
    got = {
        triple
        for arrays in hamming.near(hashes, queries, within=15)
        for triple in zip(*map(np.ndarray.tolist, arrays), strict=True)
    }
    assert got == expected


def hashes_of(images: dict[str, Image.Image]) -> tuple[list[Poster], dict[str, bytes]]:
    """Returns posters of the training split, and of the test split if their id begins with "test", and their thumbnails."""
    thumbnails = {film: perceptual_hash.thumbnail(np.asarray(image)) for film, image in images.items()}
    splits = {film: "test" if film.startswith("test") else "train" for film in images}
    return [Poster(film, splits[film], perceptual_hash.compute(thumbnails[film])) for film in images], thumbnails


def test_a_pair_that_comes_again_is_not_compared_again(monkeypatch: pytest.MonkeyPatch):
    """Thousands of films may have nearly the same image, and each pair comes once for each piece of its hash."""
    monkeypatch.setattr(duplicate_search, "_PAIRS_AT_A_TIME", 1)
    posters, thumbnails = hashes_of({"another": poster(2), "film": poster(1), "test film": poster(1)})
    asked: list[str] = []

    def thumbnail_of(film: str) -> bytes:
        asked.append(film)
        return thumbnails[film]

    assert len(duplicate_search.find(posters, thumbnail_of)) == 2
    assert sorted(asked) == ["film", "test film"]


def test_a_pair_that_comes_only_once_is_found(monkeypatch: pytest.MonkeyPatch):
    posters, thumbnails = hashes_of({"film": poster(1), "test film": poster(1)})
    monkeypatch.setattr(hamming, "near", lambda *_, **__: [(np.array([1]), np.array([0]), np.array([0]))])
    assert [one.id for one in duplicate_search.find(posters, thumbnails.__getitem__)] == ["film", "test film"]
