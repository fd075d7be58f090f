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


def test_a_png_names_no_program():
    with Image.open(io.BytesIO(style.png(Figure(figsize=(1, 1))))) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
