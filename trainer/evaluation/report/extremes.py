"""Picks the films with the highest scores and the worst mistakes of each genre, and draws their posters (extremes.png)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.report.style import GREEN, GREY, INK, ORANGE, short, styled
from trainer.evaluation.report.text import genres_by_support

GENRES = 12  # The most common genres; posters of more would make the chart too long to look at.

_SUREST, _WORST = 4, 2

# Symbol and type: they can be told apart without colour.
_HAS: tuple[str, dict[str, Any]] = ("✓", {"color": GREEN, "fontweight": "bold"})
_LACKS: tuple[str, dict[str, Any]] = ("✗", {"color": ORANGE, "fontstyle": "italic"})


@dataclass(frozen=True)
class Extremes:
    """The most extreme films of a genre, as rows of the predictions; the most extreme film of each group is first.

    Attributes:
      genre: the genre.
      surest: the films with the highest scores.
      added: the films without the genre that have the highest scores.
      missed: the films with the genre that have the lowest scores.
    """

    genre: str
    surest: tuple[int, ...]
    added: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of all groups; a row may occur twice."""
        return (*self.surest, *self.added, *self.missed)


def pick_extremes(predictions: Predictions, metrics: Mapping[str, Any]) -> list[Extremes]:
    """Returns the extremes of each of the most common genres in the split, the most common genre first."""
    found = []
    for genre in genres_by_support(metrics)[:GENRES]:
        g = predictions.genres.index(genre)
        order = np.argsort(-predictions.scores[:, g], kind="stable")
        has_it = predictions.labels[order, g]
        groups = (order[:_SUREST], order[~has_it][:_WORST], order[has_it][::-1][:_WORST])
        found.append(Extremes(genre, *(tuple(map(int, rows)) for rows in groups)))
    return found


@styled
def extremes_chart(predictions: Predictions, metrics: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> Figure:
    """Draws a row of posters for each genre, each with its score; films with the genre have a bold ✓, others an italic ✗.

    Args:
      predictions: the predictions for the split.
      metrics: the metrics of the same split.
      images: the image of every film from `pick_extremes`: uint8 [height, width, 3] by film id.
    """
    extremes = pick_extremes(predictions, metrics)
    # Inches, from the top left. A matplotlib axes for each of a hundred images would take seconds.
    margin, label, wide, gap, between, head, caption = 0.1, 1.45, 0.9, 0.1, 0.35, 0.75, 0.42
    tall = wide * max(image.shape[0] / image.shape[1] for image in images.values())
    titles = (
        ("surest", _SUREST, "Highest scores"),
        ("added", _WORST, "Highest without genre"),
        ("missed", _WORST, "Lowest with genre"),
    )
    lefts, left = [], margin + label
    for _, count, _ in titles:
        lefts.append(left)
        left += count * (wide + gap) - gap + between
    width, height = left - between + margin, head + len(extremes) * (tall + caption)
    figure = Figure(figsize=(width, height), dpi=120)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_autoscale_on(False)
    key = (("has the genre", _HAS), ("does not have it", _LACKS))
    for position, (words, (symbol, look)) in enumerate(key):
        axes.text(margin + position * 1.35, 0.2, f"{symbol} {words}", fontsize=9, va="center", **look)
    for left, (_, count, title) in zip(lefts, titles, strict=True):
        axes.text(left, head - 0.22, title, fontsize=9.5, color=INK, va="center")
        axes.plot([left, left + count * (wide + gap) - gap], [head - 0.08] * 2, color=GREY, linewidth=0.8)
    for row, found in enumerate(extremes):
        top = head + row * (tall + caption)
        films = metrics["per_genre"][found.genre]["support"]
        axes.text(margin, top + 0.12, short(found.genre, 17), fontsize=9.5, fontweight="bold", va="center")
        axes.text(margin, top + 0.3, f"{films} film{'s' * (films != 1)}", fontsize=8, color=GREY, va="center")
        for left, (name, _, _) in zip(lefts, titles, strict=True):
            rows = getattr(found, name)
            if not rows:
                axes.text(left, top + 0.12, "no such film", fontsize=8, color=GREY, va="center")
            for column, film in enumerate(rows):
                corner = (left + column * (wide + gap), top)
                _poster(axes, corner, (wide, tall), predictions, images, film, found.genre)
    return figure


def _poster(
    axes: Axes,
    corner: tuple[float, float],
    size: Sequence[float],
    predictions: Predictions,
    images: Mapping[str, np.ndarray],
    row: int,
    genre: str,
) -> None:
    (left, top), (wide, tall) = corner, size
    film, g = predictions.ids[row], predictions.genres.index(genre)
    image = images[film]
    bottom = top + wide * image.shape[0] / image.shape[1]
    axes.imshow(image, extent=(left, left + wide, bottom, top), aspect="auto")
    symbol, look = _HAS if predictions.labels[row, g] else _LACKS
    axes.text(left, top + tall + 0.1, f"{symbol} {predictions.scores[row, g]:.2f}", fontsize=8.5, va="center", **look)
    axes.text(left, top + tall + 0.24, short(film, 14), fontsize=6.5, color=GREY, va="center")
