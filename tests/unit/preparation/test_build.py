"""From the films of a CSV to the shards, the rejects and the near-duplicates."""

import base64
import io
import random
import re

import numpy as np
import pytest
from PIL import Image

from tests.support import inline
from trainer.catalog.catalog import Film
from trainer.dataset import manifest
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.dataset.rejects import Reason, Reject
from trainer.demo import posters as demo_posters
from trainer.errors import UserError
from trainer.images.decode import ImageError
from trainer.preparation import build, matching, splits
from trainer.preparation.build import Settings
from trainer.sources import folders, web

SETTINGS = Settings(height=48, width=32, encoding="jpeg", min_examples=1, train_shards=None)


class Output:
    verb = "writing"

    def __init__(self, folder):
        self.folder, self.added = folder, []

    def add(self, shard):
        self.added.append(shard.name)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    inline.decoding_pool(monkeypatch)


@pytest.fixture
def posters(tmp_path):
    """A folder of images; film n's has a colour of its own."""
    folder = tmp_path / "posters"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", (20, 30), (number * 8, 255 - number * 8, 0)).save(folder / f"tt{number}.png")
    return folder


@pytest.fixture
def output(tmp_path):
    (tmp_path / "data").mkdir()
    return Output(tmp_path / "data")


def film(number, genres=("Drama",), *, image=None, split=None):
    image = image or f"tt{number}"
    return Film(number + 1, f"tt{number}", tuple(genres), image, url=image if "://" in image else None, split=split)


def made_of(films, output, images, settings=SETTINGS, rejects=()):
    matched = matching.match(films, folders.open_images(str(images)) if images else None)
    return build.build(matched, rejects, output, settings, cache_dir=output.folder.parent / "cache")


def test_every_film_becomes_an_example_and_the_spool_goes(posters, output):
    films = [film(number, ["Drama"] if number % 3 else ["War", "Action"]) for number in range(30)]
    dataset, rejected, duplicates = made_of(films, output, posters)
    assert (rejected, duplicates) == ([], [])
    assert dataset.genres == ("Action", "Drama", "War")
    assert (dataset.height, dataset.width, dataset.encoding) == (48, 32, "jpeg")
    assert dataset.fingerprint == manifest.fingerprint(dataset)
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert sum(split.examples for split in dataset.splits.values()) == 30
    assigned, _ = splits.assign(films, {film.id: film.id for film in films})
    for name, split in dataset.splits.items():
        members = [film for film in films if assigned[film.id] == name]
        assert split.examples == len(members) == sum(shard.examples for shard in split.shards)
        assert split.genre_counts == {genre: sum(genre in film.genres for film in members) for genre in dataset.genres}
    assert len(dataset.splits["train"].shards) == 16
    names = [shard.name for split in dataset.splits.values() for shard in split.shards]
    assert output.added == names
    assert sorted(path.name for path in output.folder.iterdir()) == sorted([*names, "preview.html"])


@pytest.mark.parametrize("encoding", manifest.ENCODINGS)
def test_the_preview_shows_each_film_with_its_own_image(posters, output, encoding):
    settings = Settings(48, 32, encoding, min_examples=1, train_shards=None)
    made_of([film(number) for number in range(30)], output, posters, settings)
    page = (output.folder / "preview.html").read_text("utf-8")
    found = re.findall(r'base64,([^"]+)" alt="Image of tt(\d+)">', page)
    assert len(found) == 30
    for image, number in found:
        with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
            red, green, _ = np.asarray(opened.convert("RGB"), int)[24, 16]
        assert abs(red - int(number) * 8) <= 2, "the next film's image differs by 8"
        assert abs(green - (255 - int(number) * 8)) <= 2


def test_the_films_are_mixed_and_the_order_of_the_csv_does_not_matter(posters, output, tmp_path):
    films = [film(number) for number in range(30)]
    made_of(films, output, posters)
    (tmp_path / "again").mkdir()
    again = Output(tmp_path / "again")
    made_of(list(reversed(films)), again, posters)
    for name in (*output.added, "preview.html"):
        assert (output.folder / name).read_bytes() == (again.folder / name).read_bytes()
    first = (output.folder / output.added[0]).read_bytes()
    assert min(films, key=lambda film: splits.film_hash(film.id)).id.encode() in first or len(output.added) > 16


def test_every_reject_is_kept_with_its_reason(posters, output):
    (posters / "empty.png").touch()
    (posters / "tt4.png").write_bytes((posters / "tt3.png").read_bytes())
    films = [
        film(0),
        film(1, image="nowhere"),
        film(2, image="empty.png"),
        film(3, split="train"),
        film(4, split="test"),
        film(5, ["War", "Noir"]),
        *(film(number, ["Drama", "Crime"]) for number in (6, 7)),
    ]
    earlier = Reject(99, "", Reason.BAD_ROW, "misplaced quotation marks")
    settings = Settings(48, 32, "jpeg", min_examples=2, train_shards=None)
    dataset, rejected, _ = made_of(films, output, posters, settings, [earlier])
    assert [(reject.row, reject.id, reject.reason) for reject in rejected] == [
        (99, "", Reason.BAD_ROW),
        (2, "tt1", Reason.NO_PICTURE),
        (3, "tt2", Reason.EMPTY),
        (5, "tt4", Reason.SHARED_PICTURE),
        (6, "tt5", Reason.RARE_GENRE_ONLY),
    ]
    assert rejected[-1].detail == "fewer than 2 films have War|Noir"
    assert dataset.genres == ("Crime", "Drama"), "as many films as asked for are enough"
    assert sum(split.examples for split in dataset.splits.values()) == 4


def test_the_number_of_training_shards_can_be_chosen(posters, output):
    films = [film(number, split="train" if number < 10 else "test" if number % 2 else "validation") for number in range(30)]
    dataset, *_ = made_of(films, output, posters, Settings(48, 32, "raw", 1, train_shards=10))
    assert {name: len(split.shards) for name, split in dataset.splits.items()} == {"train": 10, "validation": 4, "test": 4}
    with pytest.raises(UserError, match=r"^--shards must be at most 10, the number of training films, got 11$"):
        made_of(films, output, posters, Settings(48, 32, "raw", 1, train_shards=11))


def test_a_split_may_have_no_film(posters, output):
    dataset, *_ = made_of([film(number, split="train") for number in range(3)], output, posters)
    assert {name: split.examples for name, split in dataset.splits.items()} == {"train": 3, "validation": 0, "test": 0}
    assert dataset.splits["test"] == manifest.Split(0, {"Drama": 0}, ())


def test_a_poster_that_occurs_in_two_splits_is_named(posters, output):
    poster = demo_posters.draw("The Poster", ["Comedy"], random.Random(1))
    poster.save(posters / "tt1.png")
    poster.resize((90, 135)).save(posters / "tt2.png")
    demo_posters.draw("Another", ["Horror"], random.Random(2)).save(posters / "tt3.png")
    films = [film(0, split="train"), film(1, split="train"), film(2, split="test"), film(3, split="test")]
    _, _, duplicates = made_of(films, output, posters)
    assert [(one.id, one.split, one.other_id, one.other_split) for one in duplicates] == [
        ("tt1", "train", "tt2", "test"),
        ("tt2", "test", "tt1", "train"),
    ]
    assert isinstance(duplicates[0], NearDuplicate)


def test_without_a_folder_every_image_must_be_a_url(posters, output, monkeypatch):
    fetched = []

    def download(urls, cache_dir):
        assert cache_dir == output.folder.parent / "cache"
        fetched.extend(urls)
        gone = ImageError(Reason.NOT_FETCHED, "the server answered 404")
        return {url: gone if "gone" in url else posters / url.rpartition("/")[2] for url in urls}

    monkeypatch.setattr(web, "download", download)
    films = [film(0, image="https://films.example/tt0.png"), film(1, image="https://films.example/gone.png")]
    dataset, rejected, _ = made_of(films, output, None)
    assert sum(split.examples for split in dataset.splits.values()) == 1
    assert [(reject.id, reject.reason) for reject in rejected] == [("tt1", Reason.NOT_FETCHED)]
    mixed = [*films, film(2), film(3)]
    with pytest.raises(UserError, match=r"^--images is missing, but row 3 names the image 'tt2': name the folder or archive that"):
        made_of(mixed, output, None)
    fetched.clear()
    dataset, *_ = made_of(mixed, output, posters)
    assert fetched == ["https://films.example/gone.png"], "the folder holds the others, tt0.png of the URL too"
    assert sum(split.examples for split in dataset.splits.values()) == 3


def test_a_csv_of_which_nothing_is_left_is_explained_by_its_commonest_reason(posters, output):
    rejects = [
        Reject(8, "a", Reason.NO_GENRE, "the row names no genre"),
        Reject(2, "b", Reason.BAD_ROW, "1 field"),
        Reject(5, "c", Reason.NO_GENRE, "none at\nall"),
    ]
    with pytest.raises(
        UserError,
        match=r"^no row of the CSV became an example \(2 of 3 were rejected as no_genre, for example row 5: none at all\): check "
        r"--csv, --images and --min_examples$",
    ):
        made_of([], output, posters, rejects=rejects)
