"""What prepare says about a CSV before it works."""

from collections import Counter
from dataclasses import replace

import pytest

from trainer.catalog.catalog import Catalog, Film
from trainer.catalog.columns import Layout
from trainer.catalog.genres.separators import Separator
from trainer.preparation import explanation, matching
from trainer.preparation.matching import Matched
from trainer.sources import folders
from trainer.sources.lookup import How

LAYOUT = Layout(id="tconst", genres=("genres",), separator=Separator(","), labels={}, image="tconst")
FILMS = [Film(2, "tt1", ("War", "Noir"), "tt1", title="First"), Film(3, "tt2", ("War",), "tt2")]
BY_HASH = "  splits: 80 % train, 10 % validation, 10 % test, by a hash of the id"


@pytest.fixture
def finder(tmp_path):
    for name in ("tt1.jpg", "tt3.jpg"):
        (tmp_path / name).touch()
    return folders.open_images(str(tmp_path))


def catalog(films=FILMS, **layout):
    return Catalog(3, films, [], replace(LAYOUT, **layout), read_as="read as UTF-8", distinct_ids=2)


def test_each_kind_of_column_has_a_line_with_its_evidence(finder):
    matched = matching.match(FILMS, finder)
    assert explanation.understood("films.csv", catalog(title="primaryTitle"), matched, finder) == [
        "films.csv: 3 rows",
        "  file: read as UTF-8",
        "  id: tconst (2 of 3 distinct, 1 match a file), in row 2: 'tt1'",
        '  genres: genres, separated by "," (2 genres), in row 2: War, Noir',
        "  title: primaryTitle",
        BY_HASH,
    ]


def test_another_column_of_images_and_the_ways_to_its_files_are_said(finder):
    matched = Matched(FILMS, [None, None], [], Counter({How.TAIL: 2, How.EXACT: 1}))
    films = [replace(FILMS[0], image="/x/tt1.jpg", url="https://me:pa55@x.example/tt1.jpg?key=1")]
    matched = replace(matched, films=films, files=[None])
    said = explanation.understood(
        "films.csv", catalog(films, image="poster", url="link", split="set", split_may_be_blank=True), matched, finder
    )
    assert said[2:] == [
        "  id: tconst (2 of 3 distinct), in row 2: 'tt1'",
        '  genres: genres, separated by "," (2 genres), in row 2: War, Noir',
        f"  images: poster (3 match a file: 2 by {How.TAIL}, 1 by {How.EXACT}), in row 2: '/x/tt1.jpg'",
        "  URLs: link (1 images that are not in --images), in row 2: 'https://x.example/tt1.jpg'",
        "  splits: set; blank ones by a hash of the id",
    ]
    assert "  URLs: poster (1 images), in row 2:" in explanation.understood("f", catalog(films, image="poster"), matched, None)[5]


def test_columns_of_0_and_1_and_notes_are_said():
    labels = {str(number): f"Genre {number}" for number in range(12)}
    said = explanation.understood("f", replace(catalog([], labels=labels, genres=()), notes=("a note",)), Matched([], [], []), None)
    named = ", ".join(f"Genre {number}" for number in range(10))
    assert said[3] == f"  genres: columns of 0 and 1: {named} and 2 more (0 genres)"
    assert said[-1] == "  note: a note"
    assert said[2] == "  id: tconst (2 of 3 distinct)"


@pytest.mark.parametrize(("text", "said"), [("\n", '"\\n"'), ("\t", '"\\t"'), (" ", '" "')])
def test_a_separator_can_be_seen(text, said):
    line = explanation.understood("f", catalog(separator=Separator(text)), Matched([], [], []), None)[3]
    assert f"separated by {said} (" in line


def test_where_most_films_find_no_image_the_column_that_would_is_named(finder):
    matched = matching.match([Film(1, "a", ("War",), "x"), Film(2, "b", ("War",), "y"), FILMS[0]], finder)
    films = [FILMS[0]] * 3
    assert explanation.warnings(catalog(films, names_files="key"), matched, finder) == [
        "2 of 3 films find no image by column 'tconst', but the values of column 'key' name files: add --image_column=key"
    ]
    assert explanation.warnings(catalog(films, names_files="tconst"), matched, finder) == [
        "2 of 3 films find no image by column 'tconst': --images has files such as 'tt1.jpg', 'tt3.jpg'; if another column names "
        "them, add --image_column"
    ]
    assert explanation.warnings(catalog([FILMS[0]] * 4), matched, finder) == [], "half of them is not most"
    assert explanation.warnings(replace(catalog(films), warnings=("first",)), matched, None) == ["first"]


def test_the_first_five_films_are_shown_with_image_and_genres(finder):
    matched = matching.match([*[FILMS[0]] * 6], finder)
    lines = explanation.first_films(matched)
    assert lines == ["  row 2: id 'tt1', 'First': War, Noir; image tt1.jpg"] * 5
    web = Matched([replace(FILMS[1], url="https://me:pa55@x.example/1.jpg")], [None], [])
    assert explanation.first_films(web) == ["  row 3: id 'tt2': War; image https://x.example/1.jpg"]


def test_no_line_echoes_a_long_cell(finder):
    long = "x" * 5000
    films = [Film(1, long, (long,), long, url=f"https://x.example/{long}", title=long)]
    matched = Matched(films, [None], [])
    lines = [*explanation.understood("f", catalog(films, image="poster"), matched, finder), *explanation.first_films(matched)]
    assert all("x" * 201 not in line for line in lines)
