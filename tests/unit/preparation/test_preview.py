"""preview.html: which films it shows, and that it shows them as they are."""

import base64
import html.parser
import io
import re
from collections import Counter

import numpy as np
import pytest
from etils import epath
from PIL import Image

from trainer.catalog.catalog import Film
from trainer.dataset.manifest import SPLITS, Dataset, Split
from trainer.images import decode
from trainer.preparation import preview
from trainer.preparation.preview import Shown

JPEG = decode.encode_jpeg(np.full((48, 32, 3), 99, np.uint8))


def film(name, *genres):
    return Film(1, name, genres, name)


def counts_of(films):
    return {split: Counter(genre for film in members for genre in film.genres) for split, members in films.items()}


def dataset_of(films, *, height=48, width=32, encoding="jpeg", without=()):
    counts = counts_of(films)
    genres = tuple(sorted({genre for split in counts.values() for genre in split} - set(without)))
    splits = {name: Split(len(films[name]), {genre: counts[name][genre] for genre in genres}, ()) for name in films}
    return Dataset(epath.Path("-"), "", genres, height, width, encoding, splits)


def page_of(*shown):
    films = {split: [film(one.id, *one.genres) for one in shown if one.split == split] for split in SPLITS}
    return preview.page(dataset_of(films), shown)


class Reader(html.parser.HTMLParser):
    """Collects the tags, with their attributes, and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += [data.strip()] if data.strip() else []


def written(tmp_path, films, dataset, read_image=lambda film: JPEG):
    preview.write(tmp_path / preview.FILE, dataset, films, read_image)
    return (tmp_path / preview.FILE).read_text("utf-8")


def images_of(page):
    return [base64.b64decode(found) for found in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]


def many_films():
    """A thousand films, most of them dramas for training, and genres of few films, two of which only one split has."""
    films: dict[str, list[Film]] = {split: [] for split in SPLITS}
    for number in range(1000):
        genres = ["Drama"] + [genre for genre, every in (("Comedy", 2), ("War", 21), ("Western", 101)) if number % every == 0]
        films[SPLITS[max(0, number % 10 - 7)]].append(film(f"tt{number}", *genres))
    films["train"].append(film("only", "News"))
    films["test"].append(film("pair", "Short", "Drama"))
    return films


def test_the_films_are_drawn_evenly_from_genres_and_splits_and_a_rare_genre_comes_first():
    films = many_films()
    chosen = preview.choose(films, counts_of(films))
    assert len({film.id for _, film in chosen}) == len(chosen) == 48
    assert all(film in films[split] for split, film in chosen)
    assert Counter(split for split, _ in chosen) == dict.fromkeys(SPLITS, 16)
    by_genre = Counter(genre for _, film in chosen for genre in film.genres)
    assert by_genre["News"] == by_genre["Short"] == 1
    assert min(by_genre[genre] for genre in ("Drama", "Comedy", "War", "Western")) >= 10
    assert {film.id for _, film in chosen[:2]} == {"only", "pair"}


def test_of_the_films_of_a_genre_those_are_shown_whose_other_genres_are_shown_less():
    rare = [f"genre {n}" for n in range(7)]
    genres = [*([genre, "Drama"] for genre in rare * 10), *([genre] for genre in rare * 10), *([["Drama"]] * 200)]
    films = {"train": [film(str(n), *names) for n, names in enumerate(genres)], "validation": [], "test": []}
    shown = Counter(genre for _, film in preview.choose(films, counts_of(films)) for genre in film.genres)
    assert max(shown.values()) - min(shown.values()) <= 1


def test_two_hundred_genres_have_a_film_each_as_far_as_the_films_go():
    films = {"train": [film(str(number), f"genre {number}") for number in range(200)], "validation": [], "test": []}
    chosen = preview.choose(films, counts_of(films))
    assert len({film.genres for _, film in chosen}) == 48


@pytest.mark.parametrize("number", [1, 2, 47])
def test_all_of_a_few_films_are_shown(number):
    films = {"train": [film(str(one), "Drama", "War") for one in range(number)], "validation": [], "test": []}
    assert {film.id for _, film in preview.choose(films, counts_of(films))} == {str(one) for one in range(number)}


def test_only_the_images_of_the_page_are_read_and_they_are_shown_as_stored(tmp_path):
    films = many_films()
    read: list[bytes] = []

    def read_image(film):
        read.append(decode.encode_jpeg(np.full((48, 32, 3), len(read) * 5, np.uint8)))
        return read[-1]

    page = written(tmp_path, films, dataset_of(films), read_image)
    assert len(read) == 48
    assert sorted(images_of(page)) == sorted(read)


def test_each_image_is_beside_its_own_film(tmp_path):
    films = {"train": [film(f"tt{grey}", "Drama") for grey in range(0, 250, 10)], "validation": [], "test": []}
    grey = {film.id: decode.encode_jpeg(np.full((48, 32, 3), int(film.id[2:]), np.uint8)) for film in films["train"]}
    page = written(tmp_path, films, dataset_of(films), lambda film: grey[film.id])
    pairs = re.findall(r'base64,([^"]+)" alt="Image of (tt\d+)">\s*<p class="name cut" dir="auto" title="(tt\d+)">(tt\d+)<', page)
    assert len(pairs) == 25
    for image, *names in pairs:
        assert {base64.b64encode(grey[name]).decode() for name in names} == {image}


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize(
    ("stored", "shown"),
    [((48, 32), (48, 32)), ((300, 200), (300, 200)), ((640, 400), (310, 194)), ((32, 4096), (22, 2771)), ((600, 600), (245, 245))],
)
def test_an_image_is_a_jpeg_no_larger_than_the_page_needs(tmp_path, encoding, stored, shown):
    films = {"train": [film("a", "Drama")], "validation": [], "test": []}
    pixels = np.zeros(stored, np.dtype((np.uint8, 3)))
    pixels[: stored[0] // 2] = (250, 10, 10)
    image = decode.encode_jpeg(pixels) if encoding == "jpeg" else pixels.tobytes()
    dataset = dataset_of(films, height=stored[0], width=stored[1], encoding=encoding)
    (found,) = images_of(written(tmp_path, films, dataset, lambda film: image))
    with Image.open(io.BytesIO(found), formats=("JPEG",)) as opened:
        assert opened.size == shown[::-1]
        levels = np.asarray(opened, int)
    assert abs(levels[0, 0] - (250, 10, 10)).max() < 30
    assert levels[-1, -1].max() < 30


def test_a_film_has_its_id_title_split_and_genres():
    text = Reader(
        page_of(Shown("tt7", "霸王别姬", ("Drama", "خيال"), "validation", JPEG), Shown("tt8", None, ("War",), "test", JPEG))
    ).text
    first, second = text.index("霸王别姬"), text.index("tt8")
    assert text[first : first + 5] == ["霸王别姬", "validation ·", "tt7", "Drama", "خيال"]
    assert text[second : second + 3] == ["tt8", "test", "War"]


def test_a_genre_that_the_data_set_left_out_is_not_shown(tmp_path):
    films = {"train": [film("a", "Drama", "Noir")], "validation": [], "test": []}
    page = written(tmp_path, films, dataset_of(films, without=["Noir"]))
    assert "Noir" not in page
    assert "Drama" in page


def test_the_films_of_each_genre_are_counted_by_split_the_commonest_first():
    shown = [Shown(str(n), None, ("War",) if n else ("Action", "War"), SPLITS[n % 2], JPEG) for n in range(5)]
    text = Reader(page_of(*shown)).text
    table = text[text.index("genre") :]
    assert table == ["genre", *SPLITS, "all", "War", "3", "2", "0", "5", "Action", "1", "0", "0", "1"]


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=http://x.test/ onerror=alert(1)>", "</title><b>&amp;"]
)
def test_a_hostile_id_title_or_genre_is_shown_as_text(hostile):
    harmless, attacked = (Reader(page_of(Shown(word, word, (word,), "train", JPEG))) for word in ("word", hostile))
    assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in harmless.tags]
    assert [attributes.keys() for _, attributes in attacked.tags] == [attributes.keys() for _, attributes in harmless.tags]
    assert attacked.text.count(hostile) == harmless.text.count("word") == 4


def test_the_page_needs_no_network_and_no_script():
    tags = Reader(page_of(Shown("a", "b", ("Drama",), "train", JPEG))).tags
    names = [tag for tag, _ in tags]
    assert not {"script", "iframe", "object", "embed"} & set(names)
    for _, attributes in tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    (policy,) = [attributes["content"] for _, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")


def test_a_film_of_very_many_genres_names_ten_and_the_number_of_the_others():
    page = page_of(Shown("a", None, tuple(f"genre {n:02}" for n in range(24)), "train", JPEG))
    text = Reader(page).text
    assert text[text.index("genre 00") :][9:11] == ["genre 09", "and 14 more"]


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    films = {"train": [film("a", "Dra\ud800ma")], "validation": [], "test": []}
    assert "Dra?ma" in written(tmp_path, films, dataset_of(films))
