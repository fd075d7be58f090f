"""Computes everything that metrics.json holds: the metrics, their intervals, the calibration, and what to be careful about."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.evaluation.metrics.calibration import calibration_metrics, reliability
from trainer.evaluation.metrics.intervals import bootstrap_intervals
from trainer.evaluation.metrics.metrics import compute_metrics, film_losses
from trainer.evaluation.metrics.predictions import Predictions

# With ten films, half of them found, the 95 % interval of the recall (Wilson's) is 0.24 to 0.76: more than half of the whole
# range. With fewer films it is wider still.
LEAST_FILMS = 10


def compute_metrics_json(
    predictions: Predictions,
    *,
    split: str,
    fingerprint: str,
    trained_on: Mapping[str, Any],
    thresholds: Mapping[str, float],
    temperature: float,
    leaked: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Returns the contents of metrics.json.

    Args:
      predictions: the predictions for the split, with scores computed with `temperature`.
      split: the name of the split.
      fingerprint: the fingerprint of the data set that the split belongs to.
      trained_on: the data set that the network was trained on, as `data` in the job's config.json: its `fingerprint`, and as
        `train` the `examples` and `genre_counts` of its training split.
      thresholds: the tuned threshold of each genre, from `tune_thresholds` on the validation split.
      temperature: the temperature, from `fit_temperature` on the validation split.
      leaked: the ids of the films whose poster nearly equals one in another split, from `near_duplicates.leaked`; None if
        this is not known.

    Returns:
      The metrics of `compute_metrics`, and:
      `intervals`: from `bootstrap_intervals`;
      `data`: the data set's `fingerprint`, and whether it `is_the_jobs` own;
      `calibration`: from `calibration_metrics`, and as `constant` the `loss` and `expected_calibration_error` of a constant that
        gives every film each genre's frequency in training;
      `unjudged`: `least_films`, and the `genres` with fewer films than that in the split, or with none in training, each with its
        `films` and `train_films`; these genres still count in every mean;
      `near_duplicates`: None if unknown, else the number of leaked `films`, and the metrics and intervals `without` them, which
        is None if no films leaked or all did.
    """
    train = trained_on["train"]

    def with_intervals(films: Predictions) -> dict[str, Any]:
        metrics = compute_metrics(films, split=split, thresholds=thresholds, train_genre_counts=train["genre_counts"])
        baselines = {key: baseline["genres"] for key, baseline in metrics["baselines"].items()}
        return metrics | {"intervals": bootstrap_intervals(films, thresholds=thresholds, baselines=baselines)}

    metrics = with_intervals(predictions)
    films = {genre: metrics["per_genre"][genre]["support"] for genre in predictions.genres}
    train_films = {genre: train["genre_counts"].get(genre, 0) for genre in predictions.genres}
    return metrics | {
        "data": {"fingerprint": fingerprint, "is_the_jobs": fingerprint == trained_on["fingerprint"]},
        "calibration": calibration_metrics(predictions.labels, predictions.scores, temperature)
        | {"constant": _constant(predictions, [count / train["examples"] for count in train_films.values()])},
        "unjudged": {
            "least_films": LEAST_FILMS,
            "genres": {
                genre: {"films": films[genre], "train_films": train_films[genre]}
                for genre in predictions.genres
                if films[genre] < LEAST_FILMS or not train_films[genre]
            },
        },
        "near_duplicates": None if leaked is None else _without(predictions, leaked, with_intervals),
    }


def _constant(predictions: Predictions, frequencies: Sequence[float]) -> dict[str, float]:
    """Returns the loss and the calibration error of giving every film the same scores, one for each genre."""
    scores = np.tile(np.array(frequencies, np.float32), (len(predictions.ids), 1))
    return {
        "loss": float(film_losses(dataclasses.replace(predictions, scores=scores)).mean()),
        "expected_calibration_error": reliability(predictions.labels, scores)["expected_calibration_error"],
    }


def _without(predictions: Predictions, leaked: frozenset[str], compute: Callable[[Predictions], dict[str, Any]]) -> dict[str, Any]:
    """Returns the number of films that leaked, and the metrics of the others."""
    others = np.array([film not in leaked for film in predictions.ids])
    without = None
    if others.any() and not others.all():
        ids = tuple(film for film in predictions.ids if film not in leaked)
        without = compute(Predictions(ids, predictions.genres, predictions.labels[others], predictions.scores[others]))
    return {"films": int((~others).sum()), "without": without}
