"""What a single cell of a CSV holds."""

import pytest

from trainer.catalog import cells
from trainer.catalog.genres.separators import Separator


@pytest.mark.parametrize("cell", ["", "  ", "N/A", "nan", " NULL ", "None", "\\N", "[]", "(no genres listed)", "NA", "empty"])
def test_a_missing_value_has_many_names(cell):
    assert cells.is_missing(cell)
    assert not cells.is_missing(f"{cell}x")


def test_what_kind_a_cell_is():
    kinds = {
        " tt0078748 ": {"imdb", "film"},
        " 114709 ": {"film"},
        "tt": set(),
        "att1": set(),
        "tt1a": set(),
        "-1": {"bool"},
        " HTTPS://films.example/a ": {"url"},
        " https://films.example/a.JPG?size=1 ": {"url", "image"},
        " a b.webp ": {"image"},
        "a.gif": {"image"},
        "a.txt": set(),
        " True ": {"bool"},
        "0.0": {"bool"},
        " ": set(),
        "yes": set(),
    }
    tests = {
        "imdb": cells.is_imdb_id,
        "film": cells.is_film_id,
        "url": cells.is_url,
        "image": cells.is_image_path,
        "bool": cells.is_bool,
    }
    assert {cell: {name for name, is_kind in tests.items() if is_kind(cell)} for cell in kinds} == kinds


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (" 1 ", True),
        ("1.0", True),
        ("TRUE", True),
        ("0", False),
        ("0.0", False),
        (" False", False),
        ("", None),
        ("  ", None),
        ("-1", None),
    ],
)
def test_a_boolean_has_several_spellings(cell, value):
    assert cells.parse_bool(cell) is value


def test_another_value_is_no_boolean():
    with pytest.raises(ValueError, match=r"^'2' is neither 0 nor 1$"):
        cells.parse_bool("2")


def test_a_split_has_several_spellings():
    named = {" Train ": "train", "training": "train", "VAL": "validation", "dev": "validation", "eval": "test", "testing": "test"}
    assert {cell: cells.parse_split(cell) for cell in named} == named
    assert cells.parse_split("later") is None


@pytest.mark.parametrize(
    ("cell", "is_known"),
    [
        ("Horror", True),
        ("Horror|Science Fiction", True),
        ("['Film-Noir', 'TV Movie']", True),
        ("[{'name': \"Children's\"}]", True),
        ("Horror|Splatter", False),
        ("N/A", False),
        ("['Horror'", False),
    ],
)
def test_only_well_known_genres_tell_a_column_of_genres(cell, is_known):
    assert cells.holds_known_genres(cell) is is_known


@pytest.mark.parametrize(
    ("cell", "separator", "genres"),
    [
        (" Drama, War ", ",", ("Drama", "War")),
        ("Drama, War", None, ("Drama, War",)),
        ("War|N/A||Drama|War", "|", ("War", "Drama")),
        (" ['War', 'Drama'] ", None, ("War", "Drama")),
        ('["War", "Drama"]', "|", ("War", "Drama")),
        ("['War' 'Drama'\n 'Noir']", None, ("War", "Drama", "Noir")),
        ("[War, Film Noir]", None, ("War", "Film Noir")),
        ("[{'id': 1, 'name': 'War'}, 'Drama']", None, ("War", "Drama")),
        ("", "|", ()),
        ("[]", None, ()),
    ],
)
def test_genres_are_read_in_every_form(cell, separator, genres):
    assert cells.parse_genres(cell, Separator(separator) if separator else None) == genres


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("['War', ", "the list has no closing bracket"),
        ("[1, 2]", "the list holds something other than names"),
        ("[{'id': 1}]", "the list holds something other than names"),
        ('["\\ud800"]', "the list holds something other than names"),
        ("[__import__('os').getcwd()]", "the list cannot be parsed"),
        ("['War', Drama]", "the list cannot be parsed"),
        ("[War, [Drama]]", "the list cannot be parsed"),
        ("['War]", "the list cannot be parsed"),
        # Each of these ends the parsers in another way.
        # From Python 3.13 on json reads so deep a list.
        ("[" * 4000 + "]" * 4000, "the list (cannot be parsed|holds something other than names)"),
        ("['" + "-" * 10 + "', " + "-" * 9000 + "1]", "the list cannot be parsed"),
        ("['', x" + ".a" * 3000 + "]", "the list cannot be parsed"),
        ("['', " + "9" * 5000 + "]", "the list cannot be parsed"),
    ],
    ids=lambda value: value[:30],
)
def test_a_list_that_cannot_be_read_is_explained(cell, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        cells.parse_genres(cell, None)


def test_a_list_may_have_ten_thousand_characters():
    longest = f"['{'x' * 9996}']"
    assert len(longest) == 10_000
    assert cells.parse_genres(longest, None) == ("x" * 9996,)
    with pytest.raises(ValueError, match=r"^the list has more than 10,000 characters$"):
        cells.parse_genres(f"['{'x' * 9997}']", None)
