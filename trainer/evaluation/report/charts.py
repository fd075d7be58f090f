"""Draws the charts of the report as matplotlib figures, which depend on nothing but the functions' arguments.

The most common genre of the split is first. No meaning depends on colour alone: lines also differ in markers and dashes, bars in
hatching. `metrics` are the contents of metrics.json everywhere.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import precision_recall_curve

from trainer.evaluation.metrics.confusion import mlcm
from trainer.evaluation.metrics.predictions import OPERATING_POINTS, Predictions
from trainer.evaluation.report.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, short, styled
from trainer.evaluation.report.text import genres_by_support
from trainer.job import history as epoch_history

_TITLES = {
    "learning_rate": "Learning rate",
    "f1_micro": "Micro F1",
    "f1_macro": "Macro F1",
    "f1_samples": "F1 per film",
    "roc_auc": "ROC AUC",
}


@styled
def training_history(history: Sequence[Mapping[str, float | None]]) -> Figure:
    """Draws loss and metrics over epochs (loss.png), a panel each, training and validation together, and marks the best epoch.

    Args:
      history: a row for each epoch, at least one, with the columns of history.csv; validation metrics begin with `val_`, and an
        undefined metric is None.
    """
    names = list(dict.fromkeys(key.removeprefix("val_") for row in history for key in row))
    names = [name for name in names if name not in ("epoch", "step", "learning_rate")] + ["learning_rate"]
    curves = {name: [_values(history, key) for key in (name, f"val_{name}")] for name in names}
    names = [name for name in names if not np.isnan(curves[name]).all()]
    columns = min((4, 3), key=lambda columns: -len(names) % columns)  # The fewer empty panels.
    figure, panels = _panels(len(names), columns=min(columns, len(names)), width=2.9, height=2.3)
    epochs = _values(history, "epoch")
    best = epoch_history.best(history)["epoch"]
    train: dict[str, Any] = {"color": BLUE, "marker": "o"}
    validation: dict[str, Any] = {"color": ORANGE, "marker": "s", "linestyle": "--"}
    for axes, name in zip(panels, names, strict=True):
        for values, look in zip(curves[name], (train, validation), strict=True):
            axes.plot(epochs, values, markersize=3.5, linewidth=1.4, **look)
        axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2)
        axes.set_title(_TITLES.get(name, name.replace("_", " ").capitalize()))
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        if name not in ("loss", "learning_rate"):
            axes.set_ylim(0, 1.06 * np.nanmax(curves[name]) or 1)
    figure.supxlabel("epoch", fontsize=9)
    _key(
        figure,
        [
            Line2D([], [], label="training", markersize=4, **train),
            Line2D([], [], label="validation", markersize=4, **validation),
            Line2D([], [], label=f"best epoch ({best:g})", color=GREY, linestyle=":"),
        ],
    )
    return figure


def _values(history: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    return np.array([row.get(key) for row in history], np.float64)  # A missing metric, or None, becomes NaN.


@styled
def confusion_matrix(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """Draws the matrix of `confusion.mlcm` at the tuned thresholds: counts, with the cell's share of its row as colour."""
    genres = genres_by_support(metrics)
    order = [predictions.genres.index(genre) for genre in genres]
    predicted = predictions.predicted(metrics["tuned"]["thresholds"])
    counts = mlcm(predictions.labels[:, order], predicted[:, order])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(counts)
    side = 0.36 * size + 2.6
    strongest = math.ceil(10 * shares.max()) / 10
    figure = Figure(figsize=(side + 0.6, side))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=strongest)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.55 * strongest else INK
            weight = "bold" if row == column else "normal"
            points = 7.5 if count < 1000 else 6 if count < 10_000 else 5
            centred: dict[str, Any] = {"ha": "center", "va": "center"}
            axes.text(column, row, str(count), fontsize=points, color=ink, fontweight=weight, **centred)
    for corner in np.arange(size - 1) - 0.5:
        axes.add_patch(Rectangle((corner, corner), 1, 1, fill=False, edgecolor=INK, linewidth=0.8))
    names = [*(short(genre, 24) for genre in genres), "(none)"]
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted genre")
    axes.set_ylabel("actual genre")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for separator in (axes.axhline, axes.axvline):
        separator(size - 1.5, color=GREY, linewidth=1.6)
    bar = figure.colorbar(image, shrink=0.5, aspect=30, pad=0.02, format=PercentFormatter(1))
    bar.set_label("share of the row")
    bar.outline.set_visible(False)
    return figure


@styled
def outcomes(metrics: Mapping[str, Any]) -> Figure:
    """Draws the true and false positives and negatives of each genre at the tuned thresholds, as shares and as counts."""
    genres = genres_by_support(metrics)
    rows = range(len(genres))
    counts = {key: np.array([metrics["per_genre"][g]["tuned"][key] for g in genres]) for key in ("tp", "fp", "fn", "tn")}
    figure = Figure(figsize=(10.5, 0.27 * len(genres) + 1.7))
    # The space keeps "100%" and the next "0%" apart.
    have, predicted, numbers = figure.subplots(1, 3, sharey=True, width_ratios=(4, 4, 3), gridspec_kw={"wspace": 0.07})
    halves = (
        (have, "Films that have the genre", ("found", "tp", BLUE, ""), ("missed", "fn", PALE, "....")),
        (predicted, "Films predicted to have it", ("correct", "tp", BLUE, ""), ("wrong", "fp", ORANGE, "////")),
    )
    for axes, title, *parts in halves:
        total = np.maximum(sum(counts[key] for _, key, _, _ in parts), 1)
        left = np.zeros(len(genres))
        for _, key, colour, hatch in parts:
            shares = counts[key] / total
            axes.barh(rows, shares, 0.7, left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.8)
            left += shares
        patches = [Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name) for name, _, colour, hatch in parts]
        above = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0.2}
        axes.legend(handles=patches, ncols=2, fontsize=8, **above)
        axes.set_title(title, pad=24)
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    _genre_rows(have, genres)
    predicted.tick_params(axis="y", length=0)
    numbers.axis("off")
    heads = {"tp": "true\npositive", "fp": "false\npositive", "fn": "false\nnegative", "tn": "true\nnegative"}
    for column, (key, head) in enumerate(heads.items()):
        x = (column + 0.9) / 4
        numbers.text(x, 1.01, head, transform=numbers.transAxes, ha="right", va="bottom", fontsize=8)
        for row in rows:
            aligned = {"transform": numbers.get_yaxis_transform(), "ha": "right", "va": "center"}
            numbers.text(x, row, str(counts[key][row]), **aligned)
    return figure


@styled
def pr_curves(predictions: Predictions, metrics: Mapping[str, Any]) -> Figure:
    """Draws precision over recall, a panel for each genre, with lines of equal F1, chance and both operating points."""
    genres = genres_by_support(metrics)
    columns = min(5, len(genres))
    figure, panels = _panels(len(genres), columns=columns, width=2.1, height=2.0)
    recalls = np.linspace(0.01, 1, 100)
    marks: dict[str, dict[str, Any]] = {
        # Larger and hollow, so that both marks can be seen where they coincide.
        "at_0.5": {"marker": "^", "color": GREEN, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.5, "zorder": 4},
        "tuned": {"marker": "D", "color": ORANGE, "markersize": 5.5, "markeredgecolor": "white", "zorder": 3},
    }
    for axes, genre in zip(panels, genres, strict=True):
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        for f1 in (0.2, 0.4, 0.6, 0.8):
            above = recalls > f1 / (2 - f1)
            axes.plot(recalls[above], f1 * recalls[above] / (2 * recalls[above] - f1), color=PALE, linewidth=0.7)
        own = metrics["per_genre"][genre]
        axes.set_title(short(genre, 18), fontsize=9)
        if not own["support"]:
            axes.text(0.5, 0.5, "no film here\nhas this genre", ha="center", va="center", color=GREY)
            continue
        axes.set_title(f"{own['average_precision']:.2f}", fontsize=9, loc="right", color=BLUE)
        g = predictions.genres.index(genre)
        precision, recall, _ = precision_recall_curve(predictions.labels[:, g], predictions.scores[:, g])
        axes.axhline(own["support"] / metrics["examples"], color=GREY, linestyle=":", linewidth=1.1)
        axes.plot(recall, precision, color=BLUE, linewidth=1.5, drawstyle="steps-post")
        for point, mark in marks.items():
            if own[point]["precision"] is not None:
                axes.plot(own[point]["recall"], own[point]["precision"], linestyle="", clip_on=False, **mark)
    for panel, axes in enumerate(panels):
        axes.tick_params(labelleft=panel % columns == 0, labelbottom=panel + columns >= len(panels))
    figure.supxlabel("recall: share of the genre's films that are found", fontsize=9)
    figure.supylabel("precision: share of the\npredictions that are correct", fontsize=9)
    points = [Line2D([], [], linestyle="", label=OPERATING_POINTS[point], **mark) for point, mark in marks.items()]
    _key(
        figure,
        [
            Line2D([], [], color=BLUE, label="model, with average precision"),
            Line2D([], [], color=GREY, linestyle=":", label="chance"),
            *points,
            Line2D([], [], color=PALE, label="equal F1: 0.2, 0.4, 0.6, 0.8"),
        ],
    )
    return figure


@styled
def frequencies(metrics: Mapping[str, Any], train_genre_counts: Mapping[str, int], train_examples: int) -> Figure:
    """Draws the share of films that have each genre, in training and in this split, and that are predicted to have it.

    Args:
      metrics: the contents of metrics.json.
      train_genre_counts: the number of films by genre in the training split.
      train_examples: the number of films in the training split.
    """
    genres = genres_by_support(metrics)
    rows = range(len(genres))
    split, films, own = metrics["split"], metrics["examples"], metrics["per_genre"]
    actual = [own[genre]["support"] / films for genre in genres]
    predicted = [(own[genre]["tuned"]["tp"] + own[genre]["tuned"]["fp"]) / films for genre in genres]
    trained = [train_genre_counts.get(genre, 0) / max(train_examples, 1) for genre in genres]
    figure = Figure(figsize=(8, 0.27 * len(genres) + 1.3))
    axes = figure.add_subplot()
    axes.barh(rows, actual, 0.7, color=PALE, label=f"actual, {split} split")
    mark: dict[str, Any] = {"linestyle": "", "clip_on": False}
    axes.plot(predicted, rows, marker="D", color=ORANGE, markersize=5.5, label=f"predicted, {split} split", **mark)
    bar: dict[str, Any] = {"marker": "|", "markersize": 12, "markeredgewidth": 1.8}
    axes.plot(trained, rows, color=INK, label="actual, training split", **bar, **mark)
    _genre_rows(axes, genres)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("share of the films")
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


@styled
def calibration(metrics: Mapping[str, Any]) -> Figure:
    """Draws the share of decisions that are true over their score, with and without the temperature, and the size of each bin."""
    own = metrics["calibration"]
    figure = Figure(figsize=(7.5, 6))
    share, count = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    share.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="perfect calibration")
    curves: list[tuple[str, str, dict[str, Any]]] = [
        ("after", "scores", {"color": BLUE, "marker": "o", "linewidth": 1.5, "zorder": 3}),
    ]
    if own["temperature"] != 1:
        without: dict[str, Any] = {"color": ORANGE, "marker": "s", "linewidth": 1.1, "linestyle": "--", "markerfacecolor": "white"}
        curves.append(("before", f"scores without the temperature of {own['temperature']:.3g}", without))
    for when, name, look in curves:
        bins = [cell for cell in own[when]["bins"] if cell["decisions"]]
        error = own[when]["expected_calibration_error"]
        points = [cell["score"] for cell in bins], [cell["actual"] for cell in bins]
        share.plot(*points, markersize=5, label=f"{name}: calibration error {error:.3f}", clip_on=False, **look)
    share.set(xlim=(0, 1), ylim=(0, 1))
    share.set_ylabel("share of decisions that are true")
    share.grid()
    bins = own["after"]["bins"]
    heights = [cell["decisions"] for cell in bins]
    middles = (np.arange(len(bins)) + 0.5) / len(bins)
    count.bar(middles, heights, 0.9 / len(bins), color=PALE)
    above: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6.5}
    for middle, height in zip(middles, heights, strict=True):
        count.annotate(f"{height:,}", (middle, max(height, 1)), **above)
    count.set_yscale("log")
    count.set_ylim(1, 4 * max(heights))
    count.tick_params(axis="y", which="both", left=False, labelleft=False)
    count.spines["left"].set_visible(False)
    count.set_ylabel("decisions\n(log scale)")
    count.set_xlabel("score")
    figure.legend(*share.get_legend_handles_labels(), loc="outside upper left", ncols=1 if len(curves) > 1 else 2, fontsize=8)
    return figure


def _genre_rows(axes: Axes, genres: Sequence[str]) -> None:
    axes.set_yticks(range(len(genres)), [short(genre, 24) for genre in genres])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(genres) - 0.5, -0.5)


def _panels(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(width * columns, 5.5), height * rows + 0.8))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def _key(figure: Figure, entries: Sequence[Line2D]) -> None:
    columns = int(figure.get_figwidth() / 1.9)  # The width of the longest entry, in inches.
    figure.legend(handles=entries, loc="outside upper left", ncols=min(columns, len(entries)), fontsize=8)
