"""For each genre the films that the model is surest of and its worst mistakes: which they are, and a figure of their posters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation.metrics.metrics import Predictions
from trainer.evaluation.report.style import GREEN, GREY, INK, ORANGE, short, styled
from trainer.evaluation.report.text import by_support

GENRES = 12  # The commonest: more pictures than theirs nobody looks at.

_SUREST, _WORST = 4, 2

# Symbol and type, told apart without their colour.
_HAS: tuple[str, dict[str, Any]] = ("✓", {"color": GREEN, "fontweight": "bold"})
_LACKS: tuple[str, dict[str, Any]] = ("✗", {"color": ORANGE, "fontstyle": "italic"})


@dataclass(frozen=True)
class Extremes:
    """Rows of predictions: a genre's highest scores, the highest of films without it, and the lowest of films with it.

    Each begins with the most extreme, and is shorter where there are not so many films.
    """

    genre: str
    surest: tuple[int, ...]
    added: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """All of them; a row may come twice."""
        return (*self.surest, *self.added, *self.missed)


def pick(predictions: Predictions, metrics: Mapping[str, Any]) -> list[Extremes]:
    """Returns the extremes of the split's commonest genres, the commonest first."""
    found = []
    for genre in by_support(metrics)[:GENRES]:
        g = predictions.genres.index(genre)
        order = np.argsort(-predictions.scores[:, g], kind="stable")
        has_it = predictions.labels[order, g]
        groups = (order[:_SUREST], order[~has_it][:_WORST], order[has_it][::-1][:_WORST])
        found.append(Extremes(genre, *(tuple(map(int, rows)) for rows in groups)))
    return found


@styled
def posters(predictions: Predictions, metrics: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> Figure:
    """Draws the extremes, a row of posters a genre, each with its score and whether it has the genre (✓, bold) or not (✗, italic).

    Args:
      predictions: of the split.
      metrics: of the same split.
      pictures: uint8 [height, width, 3] by film id, for every row of `pick`.
    """
    extremes = pick(predictions, metrics)
    # Inches, from the top left. An axes for each of a hundred pictures would take seconds.
    margin, label, wide, gap, between, head, caption = 0.1, 1.45, 0.9, 0.1, 0.35, 0.75, 0.42
    tall = wide * max(image.shape[0] / image.shape[1] for image in images.values())
    titles = (("surest", _SUREST, "Highest scores"), ("added", _WORST, "Highest without it"), ("missed", _WORST, "Lowest with it"))
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
    key = (("has the genre", _HAS), ("has it not", _LACKS))
    for place, (words, (symbol, look)) in enumerate(key):
        axes.text(margin + place * 1.35, 0.2, f"{symbol} {words}", fontsize=9, va="center", **look)
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
