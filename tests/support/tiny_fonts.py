"""Fonts of a few characters, so that tests need no font of the system."""

from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager


def only_matplotlibs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the fonts of this system: only those that matplotlib brings are left."""
    own = [entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)


def make(folder: Path, family: str, characters: str) -> Path:
    """Writes a font in which every one of the characters is a black triangle."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((900, 0))
    pen.lineTo((0, 900))
    pen.closePath()
    glyph = pen.glyph()
    names = [".notdef", *(f"glyph{number}" for number in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = folder / f"{family}.ttf"
    builder.save(path)
    return path


def install(folder: Path, family: str, characters: str) -> None:
    """Writes such a font, and adds it to matplotlib's list."""
    font_manager.fontManager.addfont(make(folder, family, characters))
