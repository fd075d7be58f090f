"""Picks a sample of films for the report, and draws their posters with predicted and actual genres (posters.png)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.report.style import GREEN, GREY, ORANGE, in_line, short, styled


def pick_examples(predictions: Predictions, count: int) -> list[int]:
    """Returns the rows of `count` films, or of all if there are fewer.

    The films are those whose ids have the lowest SHA-256. This is as good as a random draw, does not depend on scores or genres,
    and picks the same films for every model of a data set.
    """
    order = sorted(range(len(predictions.ids)), key=lambda row: hashlib.sha256(predictions.ids[row].encode()).digest())
    return order[:count]


@styled
def posters_chart(predictions: Predictions, metrics: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> Figure:
    """Draws posters with their genres at the tuned thresholds: correct (✓, bold), wrong (+, italic) and missed (−).

    Args:
      predictions: the predictions for the split.
      metrics: the metrics of the same split.
      images: the images to draw, at least one, in this order: uint8 [height, width, 3] by film id.
    """
    decisions = predictions.predicted(metrics["tuned"]["thresholds"])
    row_of = {film: row for row, film in enumerate(predictions.ids)}
    captions = {film: _caption(predictions, decisions, row_of[film]) for film in images}
    columns = min(6, len(images))
    rows = [list(images)[start : start + columns] for start in range(0, len(images), columns)]
    # Inches, laid out by hand: matplotlib's layout engines let lines of text under an image run into the next row.
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
            for line_number, (words, look) in enumerate(captions[film]):
                below: dict[str, Any] = {
                    "xycoords": "axes fraction",
                    "textcoords": "offset points",
                    "va": "top",
                    "fontsize": 8,
                }
                axes.annotate(words, (0, 0), xytext=(0, -3 - 72 * line * line_number), **below, **look)
    entries = [Line2D([], [], linestyle="", label=f"{symbol} {meaning}") for symbol, meaning, _ in _KINDS.values()]
    legend = figure.legend(handles=entries, loc="upper left", ncols=3, fontsize=9, handlelength=0, handletextpad=0)
    for entry, (_, _, look) in zip(legend.get_texts(), _KINDS.values(), strict=True):
        entry.set(**look)
    return figure


_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # Symbol, meaning and type: they can be told apart without colour.
    "hit": ("✓", "predicted and correct", {"color": GREEN, "fontweight": "bold"}),
    "added": ("+", "predicted but wrong", {"color": ORANGE, "fontstyle": "italic"}),
    "missed": ("−", "missed", {"color": GREY}),
}


def _caption(predictions: Predictions, decisions: np.ndarray, row: int) -> list[tuple[str, dict[str, Any]]]:
    lines = []
    for g in np.argsort(-predictions.scores[row], kind="stable"):
        actual, predicted = predictions.labels[row, g], decisions[row, g]
        if actual or predicted:
            symbol, _, look = _KINDS["missed" if not predicted else "hit" if actual else "added"]
            genre = in_line(short(predictions.genres[g], 14))
            lines.append((f"{symbol} {genre} {predictions.scores[row, g]:.2f}", look))
    return lines if len(lines) <= 8 else [*lines[:7], (f"… and {len(lines) - 7} more", {"color": GREY})]
