"""The look of the evaluation's figures: quiet, legible in print, and the same on every machine."""

import io

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# After M. Okabe and K. Ito, https://jfly.uni-koeln.de/color/: told apart with any kind of colour blindness.
BLUE, ORANGE, GREEN, INK, GREY, PALE = "#0072b2", "#d55e00", "#007a5a", "#222222", "#6b6b6b", "#d9d9d9"

# "default" comes first because a user's own matplotlibrc must not change the figures. Mathtext is off because the
# name of a film or genre may have a `$` in it.
styled = matplotlib.style.context(
    [
        "default",
        {
            "figure.constrained_layout.use": True,
            "figure.dpi": 150,
            "font.family": "DejaVu Sans",
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
)
"""Decorates a function that makes or renders a figure."""


@styled
def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file, without the name or version of the program that drew it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def short(name: str, length: int) -> str:
    """Returns the name, cut to `length` characters with an ellipsis if it is longer."""
    return name if len(name) <= length else name[: length - 1] + "…"
