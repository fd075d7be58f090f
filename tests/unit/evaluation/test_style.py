"""Names that are too long for a chart, and the PNG files."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image

from trainer.evaluation.report import style


@pytest.mark.parametrize(
    ("name", "shown"), [("", ""), ("War", "War"), ("Drama", "Drama"), ("Comedy", "Come…"), ("x" * 99, "xxxx…")]
)
def test_a_name_is_cut_to_the_length_of_which_the_ellipsis_is_a_part(name, shown):
    assert style.short(name, 5) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("动作", "动作"),
        ("动作片", "动作…"),
        ("ab动作", "ab动…"),
        ("abc动作", "abc…"),
        ("हिन्दी", "हिन्दी"),
        ("e\u0301" * 5, "e\u0301" * 5),
    ],
)
def test_a_chinese_character_is_as_wide_as_two_letters_and_an_accent_takes_no_width(name, shown):
    assert style.short(name, 5) == shown


@pytest.mark.parametrize("name", ["دراما", "מלחמה", "2 دراما"])
def test_a_name_written_from_the_right_keeps_its_place_in_a_line(name):
    assert style.in_line(name) == f"\u200e{name}\u200e"


def test_other_names_stay_as_they_are_in_a_line():
    assert [style.in_line(name) for name in ("Drama", "动作", "नाटक")] == ["Drama", "动作", "नाटक"]


def test_a_png_names_no_program():
    with Image.open(io.BytesIO(style.png(Figure(figsize=(1, 1))))) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
