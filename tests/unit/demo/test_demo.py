import csv
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

from tests.support import golden_images, own_flags
from trainer.demo import __main__, posters
from trainer.errors import Stopped, UserError


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "films.csv").open(encoding="latin-1", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    __main__.write(folder, __main__.invent(24, seed=1), seed=1)
    return folder


def test_every_row_names_a_poster_that_is_there(folder: Path) -> None:
    for row in rows_of(folder):
        with Image.open(folder / row["Poster"]) as image:
            assert (image.format, image.size) == ("JPEG", (posters.WIDTH, posters.HEIGHT))


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    __main__.write(tmp_path, __main__.invent(24, seed=1), seed=1)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_an_interrupted_run_says_what_is_left_and_the_same_command_completes_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = __main__.invent(24, seed=1)
    (tmp_path / "films.csv").write_text("of other films")
    draw = posters.draw

    def interrupted(title: str, *arguments: Any) -> Image.Image:
        if title == films[5].title:
            raise KeyboardInterrupt
        return draw(title, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(posters, "draw", interrupted)
        with pytest.raises(Stopped, match=rf"after 5 of 24 posters, which stay in {tmp_path}/posters; films.csv is not written"):
            __main__.write(tmp_path, films, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["posters"]
    assert len(list((tmp_path / "posters").iterdir())) == 5
    __main__.write(tmp_path, films, seed=1)
    assert (tmp_path / "films.csv").read_bytes() == (folder / "films.csv").read_bytes()


def test_another_seed_invents_other_films() -> None:
    assert __main__.invent(10, seed=1) != __main__.invent(10, seed=2)


def test_more_films_begin_with_the_same_ones() -> None:
    assert __main__.invent(30, seed=1)[:10] == __main__.invent(10, seed=1)


def test_films_have_one_to_three_genres_and_a_tenth_has_a_wrong_one() -> None:
    films = __main__.invent(2000, seed=1)
    assert set(Counter(len(film.drawn) for film in films)) == {1, 2, 3}
    assert all(film.genres for film in films)
    mislabelled = sum(set(film.drawn) != set(film.genres) for film in films)
    assert 0.07 < mislabelled / len(films) < 0.13


def test_genres_are_unequally_frequent_but_none_is_rare() -> None:
    counts = Counter(genre for film in __main__.invent(600, seed=1) for genre in film.genres)
    assert set(counts) == set(posters.STYLES)
    assert counts["Drama"] > 3 * counts["Western"]
    assert min(counts.values()) >= 50


def test_a_later_version_invents_the_same_films() -> None:
    # So that what a network learns from the demo can be compared from version to version.
    film = __main__.InventedFilm
    assert __main__.invent(4, seed=1) == [
        film(90000001, "Crimson Wedding", 6.2, ("Comedy", "Animation"), ("Comedy", "Animation")),
        film(90000002, "Wedding of the Long Machine", 7.6, ("Comedy", "Sci-Fi"), ("Sci-Fi",)),
        film(90000003, "Whisper of the Hidden Grave", 3.6, ("Horror",), ("Horror",)),
        film(90000004, "Témoin of the Hidden Holiday", 3.7, ("Drama", "Romance", "Comedy"), ("Drama", "Comedy", "Romance")),
    ]


def test_one_film_is_listed_twice_and_each_200th_has_no_genre() -> None:
    rows = __main__.csv_rows(__main__.invent(600, seed=1))
    assert len(rows) == 601
    assert sum(count > 1 for count in Counter(row["imdbId"] for row in rows).values()) == 1
    assert [number for number, row in enumerate(rows, start=1) if row["Genre"] == ""] == [200, 400, 600]
    assert rows[600] == rows[300]


def test_the_csv_is_latin_1_with_accents_and_joins_genres_by_bars(folder: Path) -> None:
    with pytest.raises(UnicodeDecodeError):
        (folder / "films.csv").read_text(encoding="utf-8")
    assert any("|" in row["Genre"] for row in rows_of(folder))


@pytest.mark.parametrize("genre", posters.STYLES)
def test_posters_of_a_genre_resemble_each_other_more_than_those_of_others(genre: str) -> None:
    def thumbnail(genre: str, seed: int) -> np.ndarray:
        poster = posters.draw("The Last Winter", [genre], random.Random(seed))
        return np.asarray(poster.resize((4, 6), Image.Resampling.BOX), dtype=float)

    one, alike = thumbnail(genre, 1), thumbnail(genre, 2)
    others = [thumbnail(other, 3) for other in posters.STYLES if other != genre]
    assert all(np.abs(one - alike).mean() < np.abs(one - other).mean() for other in others)


@pytest.fixture(scope="module")
def drawn_now() -> dict[str, Image.Image]:
    return golden_images.draw_posters()


@pytest.mark.parametrize("name", [*posters.STYLES, "mixed"])
def test_a_poster_looks_as_before(name: str, drawn_now: dict[str, Image.Image]) -> None:
    assert not golden_images.difference(f"poster-{name}", drawn_now[f"poster-{name}"]), "see tests/support/golden_images.py"


def run(patch: pytest.MonkeyPatch, *options: object, arguments: tuple[str, ...] = ()) -> None:
    own_flags.load(patch, "trainer.demo.__main__", *options).main(arguments)


def test_the_command_draws_as_many_films_as_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(monkeypatch, "--output=~/new/demo", "--films=2")
    assert capsys.readouterr().out == f"{tmp_path}/new/demo holds films.csv and posters/ with 2 posters\n"
    names = sorted(path.name for path in (tmp_path / "new" / "demo" / "posters").iterdir())
    assert names == ["90000001.jpg", "90000002.jpg"]
    for name in names:
        assert (tmp_path / "new" / "demo" / "posters" / name).read_bytes() == (folder / "posters" / name).read_bytes()
    run(monkeypatch, f"--output={tmp_path}/other", "--films=1", "--seed=2")
    other = (tmp_path / "other" / "posters" / names[0]).read_bytes()
    assert other != (folder / "posters" / names[0]).read_bytes()


def test_wrong_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^'films' is not a flag of trainer.demo: write options as --name=value$"):
        run(monkeypatch, f"--output={tmp_path}", arguments=("films",))
    with pytest.raises(UserError, match=r"^--output=s3://bucket/films is not on a local disk: name a local folder$"):
        run(monkeypatch, "--output=s3://key:secret@bucket/films")
    with pytest.raises(flags.IllegalFlagValueError, match="--films=0"):
        run(monkeypatch, f"--output={tmp_path}", "--films=0")
    with pytest.raises(flags.IllegalFlagValueError, match="output"):
        run(monkeypatch)
    assert list(tmp_path.iterdir()) == []
