"""Everything that metrics.json holds: the plain figures, how far each can be trusted, and which genres cannot be judged at all."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.evaluation.metrics import calibration, intervals, metrics
from trainer.evaluation.metrics.metrics import Predictions

# Of ten films half of which are found, the 95 % interval of the recall (Wilson's) is 0.24 to 0.76: more than half of all that a
# recall can be. With fewer it tells less still.
LEAST_FILMS = 10


def assess(
    predictions: Predictions,
    *,
    split: str,
    fingerprint: str,
    trained_on: Mapping[str, Any],
    thresholds: Mapping[str, float],
    temperature: float,
    leaked: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Returns what metrics.json holds.

    Args:
      predictions: of the split that is evaluated, with scores made with the temperature.
      split: its name.
      fingerprint: that of its data set.
      trained_on: of the data set that the network was trained on the `fingerprint`, and `examples` and `genre_counts` of its
        training split as `train`: `data` of the job's config.json.
      thresholds: by genre, from `metrics.tune_thresholds` on the validation split.
      temperature: from `calibration.fit_temperature` on the validation split.
      leaked: the ids of films whose poster also occurs in another split, from `near_duplicates.leaked`; None: not known.

    Returns:
      `metrics.compute`'s figures, and `intervals`, from `intervals.intervals`; `data`: the `fingerprint`, and whether it
      `is_the_jobs` own; `calibration`, from `calibration.describe`, and what a `constant`, which gives every film each genre's
      frequency in training, has for its `loss` and `expected_calibration_error`; `unjudged`: `least_films`, and the `genres` with
      fewer films than that here, or with none in training, each with its `films` and `train_films`, which count in every mean as
      all others do; and `near_duplicates`: None where it is not known, else how many `films` are such, and figures and intervals
      `without` them, if there are such and others.
    """
    train = trained_on["train"]

    def measure(films: Predictions) -> dict[str, Any]:
        figures = metrics.compute(films, split=split, thresholds=thresholds, train_genre_counts=train["genre_counts"])
        baselines = {key: baseline["genres"] for key, baseline in figures["baselines"].items()}
        return figures | {"intervals": intervals.intervals(films, thresholds=thresholds, baselines=baselines)}

    figures = measure(predictions)
    films = {genre: figures["per_genre"][genre]["support"] for genre in predictions.genres}
    trained = {genre: train["genre_counts"].get(genre, 0) for genre in predictions.genres}
    return figures | {
        "data": {"fingerprint": fingerprint, "is_the_jobs": fingerprint == trained_on["fingerprint"]},
        "calibration": calibration.describe(predictions.labels, predictions.scores, temperature)
        | {"constant": _constant(predictions, [count / train["examples"] for count in trained.values()])},
        "unjudged": {
            "least_films": LEAST_FILMS,
            "genres": {
                genre: {"films": films[genre], "train_films": trained[genre]}
                for genre in predictions.genres
                if films[genre] < LEAST_FILMS or not trained[genre]
            },
        },
        "near_duplicates": None if leaked is None else _without(predictions, leaked, measure),
    }


def _constant(predictions: Predictions, frequencies: Sequence[float]) -> dict[str, float]:
    """Returns the loss and the calibration error of one score a genre for every film."""
    scores = np.tile(np.array(frequencies, np.float32), (len(predictions.ids), 1))
    return {
        "loss": float(metrics.film_losses(dataclasses.replace(predictions, scores=scores)).mean()),
        "expected_calibration_error": calibration.reliability(predictions.labels, scores)["expected_calibration_error"],
    }


def _without(predictions: Predictions, leaked: frozenset[str], measure: Callable[[Predictions], dict[str, Any]]) -> dict[str, Any]:
    """Counts the films that leaked, and measures the others."""
    others = np.array([film not in leaked for film in predictions.ids])
    without = None
    if others.any() and not others.all():
        ids = tuple(film for film in predictions.ids if film not in leaked)
        without = measure(Predictions(ids, predictions.genres, predictions.labels[others], predictions.scores[others]))
    return {"films": int((~others).sum()), "without": without}
