"""The style of all charts, the same on every machine, and their conversion to PNG."""

import io

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# M. Okabe and K. Ito, https://jfly.uni-koeln.de/color/: these can be told apart with any kind of colour blindness.
BLUE, ORANGE, GREEN, INK, GREY, PALE = "#0072b2", "#d55e00", "#007a5a", "#222222", "#6b6b6b", "#d9d9d9"

# "default" comes first so that a user's own matplotlibrc does not change the charts. Mathtext is off because the id of a film or
# the name of a genre may contain a `$`.
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
"""A decorator for functions that draw a chart or convert it to PNG."""


@styled
def png(figure: Figure) -> bytes:
    """Returns the contents of a PNG file of the figure, without the name or version of the program that drew it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def short(name: str, length: int) -> str:
    """Returns the name; if it is longer than `length` characters, cut to that length with an ellipsis at the end."""
    return name if len(name) <= length else name[: length - 1] + "…"
