"""Finds the fonts of this system for the characters that DejaVu Sans, the font of the charts, does not have."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontPath, FontProperties

FAMILY = "DejaVu Sans"  # matplotlib brings it.

_UPRIGHT = "DejaVu Sans upright"  # The regular face alone: the oblique one has fewer characters, for example no Arabic.

_FACES: tuple[tuple[Literal["normal", "italic"], str], ...] = (("normal", "normal"), ("normal", "bold"), ("italic", "normal"))

# The first words of Unicode's names of characters that one font usually has together, and whose language they tell.
_CJK = {
    **dict.fromkeys(("CJK", "IDEOGRAPHIC", "BOPOMOFO", "FULLWIDTH"), "Chinese"),
    **dict.fromkeys(("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH"), "Japanese"),
    "HANGUL": "Korean",
}
_CJK_PACKAGE, _OTHER_PACKAGE = "fonts-noto-cjk", "fonts-noto-core"  # Of Debian.

# A font with one of these words in its name is taken only if no other font has as many of the characters.
_SERIF = {"Serif", "Ming", "Mincho", "Song", "Naskh", "Nastaliq"}
_LESS_LEGIBLE = _SERIF | {"Mono", "Kufi", "Looped", "Display", "UI", "Unifont", "Bitmap", "Emoji"}

_NAMED = 6  # Scripts that `Fonts.warning` names, and characters of each.


@dataclass(frozen=True)
class Fonts:
    """The fonts to draw some texts with.

    Attributes:
      families: the names of the font families; a character is drawn with the first that has it.
      missing: the characters that none of the families has, sorted.
    """

    families: tuple[str, ...] = (FAMILY,)
    missing: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """A line that names characters without a font, their scripts, and what to install; None if every character has one."""
        if not self.missing:
            return None
        by_script: defaultdict[str, str] = defaultdict(str)
        for character in self.missing:
            by_script[_script(character)] += character
        named = ", ".join(f"{_first(characters)} ({script})" for script, characters in list(by_script.items())[:_NAMED])
        packages = sorted({_CJK_PACKAGE if _group(character) == "CJK" else _OTHER_PACKAGE for character in self.missing})
        return (
            f"no font of this system has the characters {named}: the charts show boxes instead; install a font that has "
            f"them, such as those of Debian's {' and '.join(packages)}"
        )


def find(texts: Iterable[str]) -> Fonts:
    """Finds fonts for the texts: DejaVu Sans first, and others for what it lacks, sans serif where there is a choice.

    The same texts and installed fonts give the same families. If DejaVu Sans has all characters, no other font is looked at.

    Args:
      texts: the texts to draw.
    """
    wanted = {character for text in texts for character in text if _is_visible(character)}
    regular, *others = (
        font_manager.findfont(FontProperties(family=FAMILY, style=style, weight=weight)) for style, weight in _FACES
    )
    if all(wanted <= _characters(face) for face in (regular, *others)):
        return Fonts()
    if not any(entry.name == _UPRIGHT for entry in font_manager.fontManager.ttflist):
        upright = FontEntry(regular.path, regular.face_index, _UPRIGHT, "normal", "normal", 400, "normal", "scalable")
        font_manager.fontManager.ttflist.append(upright)
    lacking = wanted - _characters(regular)
    families, missing = _choose(lacking)
    if missing and _add_new_fonts():
        families, missing = _choose(lacking)
    return Fonts((FAMILY, _UPRIGHT, *families), tuple(sorted(missing)))


def _choose(lacking: set[str]) -> tuple[list[str], set[str]]:
    """Returns the families to use for the characters, and the characters that no family has."""
    if not lacking:
        return [], set()
    entries: defaultdict[str, list[FontEntry]] = defaultdict(list)
    for entry in font_manager.fontManager.ttflist:
        # A font of last resort has a box for every character; macOS and matplotlib bring one.
        if "lastresort" not in entry.name.replace(" ", "").lower():
            entries[entry.name].append(entry)
    found = {name: _characters(_regular(of_name)) & lacking for name, of_name in sorted(entries.items())}
    language = _language(lacking)
    families: list[str] = []
    missing = set(lacking)
    for group in sorted({_group(character) for character in lacking}):
        left = {character for character in lacking if _group(character) == group}
        while left:
            best = min(found, key=lambda name: (-len(found[name] & left), *_legibility(name, language), name))
            if not found[best] & left:
                break
            families += [best] if best not in families else []
            left -= found[best]
            missing -= found[best]
    return families, missing


def _legibility(name: str, language: str) -> tuple[int, bool, bool]:
    """Returns a key that sorts the names of families: the most legible first."""
    words = set(name.split())
    return len(words & _LESS_LEGIBLE), "Sans" not in words, language not in words


def _language(characters: Iterable[str]) -> str:
    """Returns the form of Chinese characters to prefer, as fonts' names say it: Noto Sans CJK JP has those used in Japan."""
    scripts = {_script(character) for character in characters}
    return "JP" if "Japanese" in scripts else "KR" if "Korean" in scripts else "SC"


def _regular(entries: Sequence[FontEntry]) -> FontPath:
    """Returns the face of a family that is nearest to regular."""
    score = font_manager.fontManager.score_weight
    best = min(entries, key=lambda entry: (entry.style != "normal", score(entry.weight, 400), entry.fname, entry.index))
    return FontPath(best.fname, best.index)


def _characters(face: FontPath) -> set[str]:
    """Returns the characters that a font has; none if its file cannot be read."""
    try:
        codes = font_manager.get_font(face).get_charmap()
    except (OSError, RuntimeError, ValueError):
        return set()
    return set(map(chr, codes))


def _add_new_fonts() -> bool:
    """Adds the fonts that were installed after matplotlib had listed the system's fonts; returns whether there are any.

    matplotlib keeps its list in the user's cache and does not renew it.
    """
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    new = sorted(set(font_manager.findSystemFonts()) - known)
    for path in new:
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError, ValueError, LookupError, NotImplementedError):
            continue  # A file that matplotlib cannot use, such as a font of bitmaps.
    return bool(new)


def _is_visible(character: str) -> bool:
    """Returns whether a font must have the character: not for control characters, joiners, spaces and variation selectors."""
    return unicodedata.category(character)[0] not in "CZ" and "VARIATION SELECTOR" not in unicodedata.name(character, "")


def _first(characters: str) -> str:
    return characters if len(characters) <= _NAMED else f"{characters[:_NAMED]}…"


def _group(character: str) -> str:
    word = unicodedata.name(character, "unknown").split()[0]
    return "CJK" if word in _CJK else word


def _script(character: str) -> str:
    word = unicodedata.name(character, "unknown").split()[0]
    return _CJK.get(word, word.capitalize())
