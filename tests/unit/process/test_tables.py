"""Tables for the terminal."""

import pytest

from trainer.process import tables

ROWS = [("genre", "films", "share"), ("Drama", "1,200", "7%"), ("Film-Noir", "8", "0.05%")]


def test_text_is_aligned_to_the_left_and_numbers_to_the_right():
    assert tables.aligned(ROWS).splitlines() == [
        "genre      films  share",
        "Drama      1,200     7%",
        "Film-Noir      8  0.05%",
    ]


def test_several_leading_columns_may_be_text_and_no_line_ends_in_spaces():
    assert tables.aligned(ROWS, text_columns=3).splitlines() == [
        "genre      films  share",
        "Drama      1,200  7%",
        "Film-Noir  8      0.05%",
    ]


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="argument"):
        tables.aligned([("Drama", "1"), ("Comedy",)])


def test_chinese_characters_take_two_columns_and_accents_none():
    rows = [("动作", "1"), ("Noe\u0308l", "2"), ("Drama", "3"), ("ﾄﾞﾗﾏ", "4")]
    assert tables.aligned(rows).splitlines() == ["动作   1", "Noe\u0308l   2", "Drama  3", "ﾄﾞﾗﾏ   4"]
