"""Writes an evaluation/ folder: figures, every film's scores, charts, and a page that holds and explains it all."""

import base64
import importlib.resources
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath

from trainer.evaluation.metrics.metrics import F1, POINTS, Predictions
from trainer.evaluation.report import charts as plots
from trainer.evaluation.report import examples, extremes, style, text
from trainer.job import history as epoch_history
from trainer.process import heartbeat
from trainer.storage import files

_OPTIONAL_CHARTS = ("loss.png", "posters.png", "extremes.png")


def write(
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

    The bytes depend on the arguments alone. Of an earlier evaluation in the folder nothing is left.

    Args:
      directory: is made where it is missing.
      metrics: from `assessment.assess`.
      predictions: what they were computed from.
      history: a row an epoch, keyed as history.csv's columns; empty leaves the training curves out.
      config: the settings to show, by name: none that names a host, a time or a place.
      sample: ids of films to show, from `examples.pick_examples`; empty leaves all posters out.
      pictures: uint8 [height, width, 3] by film id, of these films and those of `extremes.pick`.
      train_genre_counts: films by genre in the training split.
      train_examples: films in the training split.
    """
    figures = {
        "posters.png": examples.posters(predictions, metrics, {film: images[film] for film in sample}) if sample else None,
        "extremes.png": extremes.posters(predictions, metrics, images) if sample else None,
        "loss.png": plots.loss(history) if history else None,
        "outcomes.png": plots.outcomes(metrics),
        "calibration.png": plots.calibration(metrics),
        "pr_curves.png": plots.pr_curves(predictions, metrics),
        "confusion_matrix.png": plots.confusion(predictions, metrics),
        "frequencies.png": plots.frequencies(metrics, train_genre_counts, train_examples),
    }
    heartbeat.beat()
    charts = {name: style.png(figure) for name, figure in figures.items() if figure is not None}
    page = _page(metrics=metrics, charts=charts, history=history, config=config, films=sample)

    files.make_folder(directory)
    files.write_json(directory / "metrics.json", metrics)
    files.write(directory / "predictions.csv", predictions_csv(predictions, metrics["tuned"]["thresholds"]))
    for name in _OPTIONAL_CHARTS:
        if name not in charts:
            files.remove(directory / name)
    for name, chart in charts.items():
        files.write(directory / name, chart)
        heartbeat.beat()
    files.write(directory / "report.html", page.encode())


def predictions_csv(predictions: Predictions, thresholds: Mapping[str, float]) -> bytes:
    """Returns a CSV with a film a line, sorted by id: its genres, those predicted, and its scores.

    Nine significant digits bring every float32 back exactly.

    Args:
      predictions: of any split.
      thresholds: by genre, the tuned ones.
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
    environment.filters["figure"] = text.text
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
        genres=text.by_support(metrics),
        points=POINTS,
        f1=F1,
        overall=text.OVERALL,
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
