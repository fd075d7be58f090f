"""Writes an evaluation/ folder: metrics.json, predictions.csv, the charts, and report.html, which shows and explains them."""

import base64
import importlib.resources
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath

from trainer.evaluation.metrics.metrics import F1_AVERAGES
from trainer.evaluation.metrics.predictions import OPERATING_POINTS, Predictions
from trainer.evaluation.report import charts, examples, extremes, fonts, style, text
from trainer.job import history as epoch_history
from trainer.process import heartbeat
from trainer.storage import files

_log = logging.getLogger(__name__)

_OPTIONAL_CHARTS = ("loss.png", "posters.png", "extremes.png")


def write_report(
    directory: epath.Path,
    *,
    metrics: Mapping[str, Any],
    predictions: Predictions,
    history: Sequence[Mapping[str, float | None]],
    config: Mapping[str, Any],
    sample: Sequence[str],
    images: Mapping[str, np.ndarray],
    train_genre_counts: Mapping[str, int],
    train_examples: int,
) -> None:
    """Writes metrics.json, predictions.csv, the charts and, last, report.html.

    The bytes depend on the arguments alone, those of the charts also on this system's fonts if DejaVu Sans lacks characters of the
    genres or ids. Files of an earlier evaluation in the folder are replaced or removed.

    Args:
      directory: the folder to write; it is created if it does not exist.
      metrics: the contents of metrics.json, from `compute_metrics_json`.
      predictions: the predictions that the metrics were computed from.
      history: a row for each epoch, with the columns of history.csv; without rows the report has no training curves.
      config: the settings to show, by name, without hosts, times and paths.
      sample: the ids of the films to show, from `examples.pick_examples`; without ids the report has no posters.
      images: the images of these films and those of `extremes.pick_extremes`: uint8 [height, width, 3] by film id.
      train_genre_counts: the number of films by genre in the training split.
      train_examples: the number of films in the training split.

    Raises:
      ValueError: a metric is NaN or infinite, which JSON cannot hold; nothing has been written.
    """
    found = fonts.find([*predictions.genres, *images])
    if found.warning:
        _log.warning(found.warning)
    with style.font_families(found.families):
        figures = {
            "posters.png": examples.posters_chart(predictions, metrics, {film: images[film] for film in sample})
            if sample
            else None,
            "extremes.png": extremes.extremes_chart(predictions, metrics, images) if sample else None,
            "loss.png": charts.training_history(history) if history else None,
            "outcomes.png": charts.outcomes(metrics),
            "calibration.png": charts.calibration(metrics),
            "pr_curves.png": charts.pr_curves(predictions, metrics),
            "confusion_matrix.png": charts.confusion_matrix(predictions, metrics),
            "frequencies.png": charts.frequencies(metrics, train_genre_counts, train_examples),
        }
        heartbeat.beat()
        pngs = {name: style.png(figure) for name, figure in figures.items() if figure is not None}
    page = _page(metrics=metrics, charts=pngs, history=history, config=config, films=sample)

    files.make_folder(directory)
    files.write_json(directory / "metrics.json", metrics)
    files.write(directory / "predictions.csv", predictions_csv(predictions, metrics["tuned"]["thresholds"]))
    for name in _OPTIONAL_CHARTS:
        if name not in pngs:
            files.remove(directory / name)
    for name, png in pngs.items():
        files.write(directory / name, png)
        heartbeat.beat()
    files.write(directory / "report.html", page.encode())


def predictions_csv(predictions: Predictions, thresholds: Mapping[str, float]) -> bytes:
    """Returns the contents of predictions.csv: a row for each film, sorted by id, with its genres, predictions and scores.

    Scores have nine significant digits, from which every float32 can be read back exactly.

    Args:
      predictions: the predictions for a split.
      thresholds: the tuned threshold of each genre.
    """
    scores = [f"score:{genre}" for genre in predictions.genres]
    decisions = {
        "actual": predictions.labels,
        "predicted_0.5": predictions.predicted(0.5),
        "predicted_tuned": predictions.predicted(thresholds),
    }
    rows = [
        {"id": predictions.ids[film]}
        | {column: "|".join(predictions.names(values[film])) for column, values in decisions.items()}
        | {column: f"{score:.9g}" for column, score in zip(scores, predictions.scores[film], strict=True)}
        for film in sorted(range(len(predictions.ids)), key=lambda film: predictions.ids[film])
    ]
    return files.csv_bytes(["id", *decisions, *scores], rows)


def _page(
    *,
    metrics: Mapping[str, Any],
    charts: Mapping[str, bytes],
    history: Sequence[Mapping[str, float | None]],
    config: Mapping[str, Any],
    films: Sequence[str],
) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["metric"] = text.format_value
    environment.filters["number"] = _number
    environment.filters["data_uri"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    template = importlib.resources.files(__package__).joinpath("report.html.j2").read_text("utf-8")
    return environment.from_string(template).render(
        metrics=metrics,
        charts=charts,
        history=history,
        columns=epoch_history.columns(history),
        best_epoch=epoch_history.best(history)["epoch"] if history else None,
        config=config,
        films=films,
        genres=text.genres_by_support(metrics),
        points=OPERATING_POINTS,
        f1=F1_AVERAGES,
        metric_names=text.METRIC_NAMES,
        verdicts=text.verdicts(metrics),
        caution=text.caution(metrics),
        data_name=text.data_name(metrics),
        average_precision_bounds=lambda genre: text.average_precision_bounds(metrics, genre),
        unjudged=text.unjudged(metrics),
        near_duplicates=text.near_duplicates(metrics),
        baseline_name=text.baseline_name,
        level=f"{100 * metrics['intervals']['level']:g} %",
    )


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"
