"""A few films to look at: an honest sample, and a figure of their posters with predicted beside actual genres."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainer.evaluation.metrics.metrics import Predictions
from trainer.evaluation.report.style import GREEN, GREY, ORANGE, short, styled


def pick_examples(predictions: Predictions, count: int) -> list[int]:
    """Returns the rows of `count` films, or of all if there are fewer: those whose ids have the lowest SHA-256.

    That is as good as random, knows neither scores nor genres, and stays the same for every model of a data set.
    """
    order = sorted(range(len(predictions.ids)), key=lambda row: hashlib.sha256(predictions.ids[row].encode()).digest())
    return order[:count]


@styled
def posters(predictions: Predictions, metrics: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> Figure:
    """Draws posters with their genres at the tuned thresholds: found (✓, bold), wrongly added (+, italic), missed (−).

    Args:
      predictions: holds every film in `pictures`.
      metrics: of the same split.
      pictures: uint8 [height, width, 3] by film id, at least one, in the order they are drawn in.
    """
    decisions = predictions.predicted(metrics["tuned"]["thresholds"])
    row_of = {film: row for row, film in enumerate(predictions.ids)}
    captions = {film: _caption(predictions, decisions, row_of[film]) for film in images}
    columns = min(6, len(images))
    rows = [list(images)[start : start + columns] for start in range(0, len(images), columns)]
    # Inches, laid out by hand: matplotlib's layout engines let lines of text under a picture run into the next row.
    cell, wide, key, title, line = 1.8, 1.65, 0.4, 0.22, 0.155
    tall = wide * max(image.shape[0] / image.shape[1] for image in images.values())
    heights = [title + tall + line * max(len(captions[film]) for film in row) + 0.2 for row in rows]
    figure = Figure(figsize=(max(cell * columns, 6), key + sum(heights)), dpi=120)
    figure.set_layout_engine("none")
    inches = figure.get_size_inches()
    for top, row in zip(inches[1] - key - np.cumsum([0, *heights]), rows, strict=False):
        for column, film in enumerate(row):
            corner = (cell * column + (cell - wide) / 2, top - title - tall)
            axes = figure.add_axes((*(corner / inches), *((wide, tall) / inches)), anchor="N")
            axes.imshow(images[film])
            axes.axis("off")
            axes.set_title(short(film, 22), fontsize=7.5, color=GREY, pad=3)
            for place, (words, look) in enumerate(captions[film]):
                below: dict[str, Any] = {
                    "xycoords": "axes fraction",
                    "textcoords": "offset points",
                    "va": "top",
                    "fontsize": 8,
                }
                axes.annotate(words, (0, 0), xytext=(0, -3 - 72 * line * place), **below, **look)
    entries = [Line2D([], [], linestyle="", label=f"{symbol} {meaning}") for symbol, meaning, _ in _KINDS.values()]
    legend = figure.legend(handles=entries, loc="upper left", ncols=3, fontsize=9, handlelength=0, handletextpad=0)
    for entry, (_, _, look) in zip(legend.get_texts(), _KINDS.values(), strict=True):
        entry.set(**look)
    return figure


_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # Symbol, meaning and type, told apart without their colour.
    "hit": ("✓", "predicted, and has it", {"color": GREEN, "fontweight": "bold"}),
    "added": ("+", "predicted, but has it not", {"color": ORANGE, "fontstyle": "italic"}),
    "missed": ("−", "not predicted, but has it", {"color": GREY}),
}


def _caption(predictions: Predictions, decisions: np.ndarray, row: int) -> list[tuple[str, dict[str, Any]]]:
    lines = []
    for g in np.argsort(-predictions.scores[row], kind="stable"):
        actual, predicted = predictions.labels[row, g], decisions[row, g]
        if actual or predicted:
            symbol, _, look = _KINDS["missed" if not predicted else "hit" if actual else "added"]
            lines.append((f"{symbol} {short(predictions.genres[g], 14)} {predictions.scores[row, g]:.2f}", look))
    return lines if len(lines) <= 8 else [*lines[:7], (f"… and {len(lines) - 7} more", {"color": GREY})]
