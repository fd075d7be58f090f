"""What separates the genres of a column."""

from collections import Counter

import pytest

from trainer.catalog.genres import separators
from trainer.catalog.genres.separators import Separator


def names(*column):
    """Returns the text that separates the genres of a column, and the genres."""
    found = separators.find(Counter(column))
    parts = {name for cell in column for name in (found.split(cell) if found else [cell])}
    return found.text if found else None, sorted(parts)


@pytest.mark.parametrize("text", ["|", ";", "\n", "<br>", "•", "；", "、", "，", ",", " | ", ", "])
def test_a_clear_separator_separates_wherever_it_occurs(text):
    found, genres = names("Drama", f"Unknown{text}Drama")
    assert found == text.strip(" ")
    assert genres == ["Drama", "Unknown"]


def test_the_commonest_clear_separator_counts_and_of_equals_the_first():
    assert names("Drama, War|Noir") == ("|", ["Drama, War", "Noir"])
    assert names(*["A, B"] * 6, "C|D") == (",", ["A", "B", "C|D"])
    assert names(*["A, B"] * 5, "C|D")[0] == "|"
    assert names("Action &amp; Adventure", "Action &amp; Adventure, War") == (",", ["Action &amp; Adventure", "War"])


@pytest.mark.parametrize("text", ["/", " / ", "／", "-", " - ", "–", "·", "・", "+", ":", "\u3000", " "])
def test_an_unclear_separator_separates_where_its_parts_recombine(text):
    column = ["red", f"red{text}blue", f"blue{text}green", f"green{text}red", f"blue{text}red{text}green", "green", "blue"]
    found, genres = names(*column)
    assert found is not None
    assert found.strip() == text.strip()
    assert genres == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("column", "text", "genres"),
    [
        # Names with a blank, a hyphen or a slash of their own, one in each cell.
        (["Science Fiction", "TV Movie", "Science Fiction", "Drama"], None, ["Drama", "Science Fiction", "TV Movie"]),
        (["Sci-Fi", "Film-Noir", "Reality-TV", "Drama"], None, ["Drama", "Film-Noir", "Reality-TV", "Sci-Fi"]),
        (["Post-Rock", "Hip-Hop", "Post-Rock", "Hip-Hop"], None, ["Hip-Hop", "Post-Rock"]),
        (["Action/Adventure", "Action/Adventure", "Drama"], None, ["Action/Adventure", "Drama"]),
        # Their parts recombine, but each cell has two of them.
        (
            ["Romantic Comedy", "Action Comedy", "Romantic Drama", "Action Drama", "Drama"],
            None,
            ["Action Comedy", "Action Drama", "Drama", "Romantic Comedy", "Romantic Drama"],
        ),
        # The same names among others.
        (
            ["War-TV Movie-Crime", "TV Movie-War", "Crime-War", "Science Fiction-Crime"],
            "-",
            ["Crime", "Science Fiction", "TV Movie", "War"],
        ),
        (["Sci-Fi", "Drama-Sci-Fi", "Drama-War", "War-Drama"], "-", ["Drama", "Sci-Fi", "War"]),
        (
            ["drama science fiction", "science fiction", "comedy drama", "war drama comedy", "comedy war"],
            " ",
            ["comedy", "drama", "science fiction", "war"],
        ),
        (
            ["martial arts drama", "martial arts", "drama comedy martial arts", "comedy", "drama comedy", "comedy drama"],
            " ",
            ["comedy", "drama", "martial arts"],
        ),
        (
            ["Action/Adventure / Drama", "Drama", "Comedy / Action/Adventure", "Comedy / Drama", "Western"],
            " / ",
            ["Action/Adventure", "Comedy", "Drama", "Western"],
        ),
        (["Comedy / Drama", "Drama/War", "War/Comedy", "Comedy"], "/", ["Comedy", "Drama", "War"]),
        # A few films with well-known genres.
        (["Action/Comedy", "Drama/War"], "/", ["Action", "Comedy", "Drama", "War"]),
        (["Gore/Slasher", "Cult/Camp"], None, ["Cult/Camp", "Gore/Slasher"]),
        # Classes whose names have commas: what is around a comma never occurs in another way.
        (
            ["Crafts, Hobbies & Home", "Cookbooks, Food & Wine", "Mystery, Thriller & Suspense", "Travel"] * 2,
            None,
            ["Cookbooks, Food & Wine", "Crafts, Hobbies & Home", "Mystery, Thriller & Suspense", "Travel"],
        ),
        (["Drama, Romance", "Drama, Romance", "War, Crime", "War, Crime"], ",", ["Crime", "Drama", "Romance", "War"]),
        ([], None, []),
    ],
)
def test_what_is_one_name_stays_whole(column, text, genres):
    assert names(*column) == (text, genres)


def test_a_column_of_prose_is_no_list():
    column = [f"the {word} of a {other}" for word in ["river", "mountain", "city", "sea"] for other in ["man", "woman", "child"]]
    column += [f"word{number} of word{number + 1}" for number in range(0, 60, 2)]
    assert names(*column)[0] is None


def test_the_parts_of_a_cell_are_stripped_and_empty_ones_left_out():
    assert Separator("|").split(" Drama || War | ") == ["Drama", "War"]
    assert Separator(" ").split("tv movie  drama Science Fiction") == ["tv movie", "drama", "Science Fiction"]
    assert Separator("-", frozenset({("a", "b"), ("b", "c")})).split("x-A-b-C-y-b") == ["x", "A-b-C", "y", "b"]
