"""The style of all charts, the same on every machine, and their conversion to PNG."""

import contextlib
import functools
import io
import logging
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.evaluation.report import fonts
from trainer.process.tables import width

_P = ParamSpec("_P")
_R = TypeVar("_R")

# M. Okabe and K. Ito, https://jfly.uni-koeln.de/color/: these can be told apart with any kind of colour blindness.
BLUE, ORANGE, GREEN, INK, GREY, PALE = "#0072b2", "#d55e00", "#007a5a", "#222222", "#6b6b6b", "#d9d9d9"

# "default" comes first so that a user's own matplotlibrc does not change the charts. Mathtext is off because the id of a film or
# the name of a genre may contain a `$`.
_STYLE: list[str | dict[str, Any]] = [
    "default",
    {
        "figure.constrained_layout.use": True,
        "figure.dpi": 150,
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "grid.color": PALE,
        "grid.linewidth": 0.6,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
    },
]

_LEFT_TO_RIGHT_MARK = "\u200e"  # Invisible; as strong as a Latin letter in Unicode's bidirectional algorithm.

_families: ContextVar[Sequence[str]] = ContextVar("families", default=(fonts.FAMILY,))


@contextlib.contextmanager
def font_families(families: Sequence[str]) -> Iterator[None]:
    """Draws the charts of the `with` block with other fonts than DejaVu Sans alone.

    Args:
      families: names of font families, from `fonts.find`; a character is drawn with the first that has it.
    """
    token = _families.set(families)
    try:
        yield
    finally:
        _families.reset(token)


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function that draws a chart or converts it to PNG."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.style.context([*_STYLE, {"font.family": list(_families.get())}]):
            return draw(*args, **kwargs)

    return drawn


@styled
def png(figure: Figure) -> bytes:
    """Returns the contents of a PNG file of the figure, without the name or version of the program that drew it."""
    buffer = io.BytesIO()
    with _without_notes_on_fonts():
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _without_notes_on_fonts() -> Iterator[None]:
    """Silences what matplotlib says of each missing glyph (`Fonts.warning` does it once) and of each font without a bold face."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            yield
    finally:
        logger.setLevel(level)


def short(name: str, length: int) -> str:
    """Returns the name; if it is wider than `length` letters, cut to that width with an ellipsis at the end.

    A Chinese, Japanese or Korean character is as wide as two letters.
    """
    if width(name) <= length:
        return name
    cut = length - 1
    while width(name[:cut]) >= length:
        cut -= 1
    return name[:cut] + "…"


def in_line(name: str) -> str:
    """Returns the name for use within a line; what comes before and after an Arabic or Hebrew name stays to its left and right."""
    if not any(unicodedata.bidirectional(character) in ("R", "AL") for character in name):
        return name
    return f"{_LEFT_TO_RIGHT_MARK}{name}{_LEFT_TO_RIGHT_MARK}"
