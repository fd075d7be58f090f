"""Characters that DejaVu Sans lacks: they are drawn with a font of the system, or one line says what to install."""

import io
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tests.support import tiny_fonts
from trainer.evaluation.report import fonts, style

CHINESE, DEVANAGARI, ARABIC = "动作", "नाटक", "دراما"


@pytest.fixture
def bare(monkeypatch):
    """A system without fonts of its own."""
    tiny_fonts.only_matplotlibs(monkeypatch)


@style.styled
def written(text, **look):
    figure = Figure(figsize=(1, 1), dpi=50)
    figure.text(0.1, 0.4, text, **look)
    return figure


def pixels(text, families):
    with style.font_families(families), Image.open(io.BytesIO(style.png(written(text)))) as image:
        return np.asarray(image.convert("L"))


def test_ordinary_characters_need_no_other_font(monkeypatch, bare):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("it takes a second"))
    found = fonts.find(["Drama", "Comédie", "Ужасы", "✓ film-noir…\u200b\n", "naïve\ufe0f"])
    assert (found.families, found.missing, found.warning) == (("DejaVu Sans",), (), None)


def test_what_no_font_has_is_named_with_its_script_and_what_to_install(bare):
    assert fonts.find([CHINESE, "Drama"]).warning == (
        "no font of this system has the characters 作动 (Chinese): the charts show boxes instead; install a font that has them, "
        "such as those of Debian's fonts-noto-cjk"
    )
    found = fonts.find([DEVANAGARI, "ドキュメンタリー", "로맨스"])
    assert found.missing == tuple(sorted(set("नाटकドキュメンタリー로맨스")))
    assert found.warning == (
        "no font of this system has the characters कटना (Devanagari), キタドメュリ… (Japanese), 로맨스 (Korean): "
        "the charts show boxes instead; install a font that has them, such as those of Debian's fonts-noto-cjk and fonts-noto-core"
    )


def test_a_character_without_a_font_makes_no_other_noise(bare, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(CHINESE, fonts.find([CHINESE]).families)
    assert capfd.readouterr().err == ""


def test_a_font_that_has_the_characters_draws_them(bare, tmp_path, capfd):
    boxes = pixels(CHINESE, fonts.find([CHINESE]).families)
    tiny_fonts.install(tmp_path, "Drawing Sans", CHINESE)
    found = fonts.find([CHINESE, "Drama"])
    assert (found.families[0], found.families[-1], found.missing) == ("DejaVu Sans", "Drawing Sans", ())
    assert (pixels(CHINESE, found.families) != boxes).any()
    np.testing.assert_array_equal(pixels("Drama", found.families), pixels("Drama", ["DejaVu Sans"]))
    with style.font_families(found.families):
        style.png(written(CHINESE, fontweight="bold"))
    assert capfd.readouterr().err == "", "it has no bold face, which is nobody's concern"


@pytest.mark.parametrize("turned", [False, True])
def test_the_choice_is_legible_and_does_not_depend_on_the_order_of_the_fonts(bare, tmp_path, turned):
    have = {
        "A Handwriting SC": "动作",
        "A Serif CJK": "动作",
        "A Sans Mono CJK": "动作",
        "B Sans CJK JP": "动作",
        "B Sans CJK SC": "动作",
        "C Sans": "动",
    }
    for family, characters in sorted(have.items(), reverse=turned):
        tiny_fonts.install(tmp_path, family, characters)
    assert fonts.find([CHINESE]).families[2:] == ("B Sans CJK SC",)


@pytest.mark.parametrize(("text", "region"), [("動作", "SC"), ("動作ラ", "JP"), ("動作로", "KR")])
def test_the_form_of_the_characters_is_that_of_the_language(bare, tmp_path, text, region):
    for language in ("HK", "JP", "KR", "SC"):
        tiny_fonts.install(tmp_path, f"Region Sans {language}", "動作ラ로")
    assert fonts.find([text]).families[2:] == (f"Region Sans {region}",)


def test_each_script_has_its_font_and_two_fonts_may_share_one(bare, tmp_path):
    tiny_fonts.install(tmp_path, "Half Sans", "动")
    tiny_fonts.install(tmp_path, "Hindi Sans", DEVANAGARI.replace("टक", "ट"))
    tiny_fonts.install(tmp_path, "Other Half Sans", "作")
    found = fonts.find([CHINESE, DEVANAGARI])
    assert found.families[2:] == ("Half Sans", "Other Half Sans", "Hindi Sans")
    assert found.missing == ("क",)


def test_a_font_installed_since_matplotlib_made_its_list_is_found_and_a_damaged_one_passed_over(bare, tmp_path, monkeypatch):
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    files = [str(tmp_path / "damaged.ttf"), str(tiny_fonts.make(tmp_path, "New Sans", CHINESE))]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    assert fonts.find([CHINESE]).families[2:] == ("New Sans",)


def test_a_font_that_was_removed_since_is_passed_over(bare, tmp_path):
    tiny_fonts.install(tmp_path, "Gone Sans", CHINESE)
    (tmp_path / "Gone Sans.ttf").unlink()
    assert fonts.find([CHINESE]).missing == ("作", "动")


@pytest.mark.parametrize("look", [{}, {"fontweight": "bold"}, {"fontstyle": "italic"}])
def test_arabic_needs_no_font_of_the_system_in_any_type(bare, look):
    found = fonts.find([ARABIC])
    assert found.missing == ()
    with warnings.catch_warnings(), style.font_families(found.families):
        warnings.simplefilter("error")
        FigureCanvasAgg(written(ARABIC, **look)).draw()


def test_the_fonts_of_this_system_draw_what_they_have():
    texts = [CHINESE, "ドラマ", "로맨스", ARABIC, DEVANAGARI]
    found = fonts.find(texts)
    if found.missing:
        pytest.skip(f"this system lacks fonts: {found.warning}")
    with warnings.catch_warnings(), style.font_families(found.families):
        warnings.simplefilter("error")
        for text in texts:
            FigureCanvasAgg(written(text)).draw()
