"""Everything that metrics.json holds: the plain figures, how far each can be trusted, and which genres cannot be judged at all."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evaluation import calibration, metrics, uncertainty
from trainer.evaluation.metrics import Predictions

# Of ten films half of which are found, the 95 % interval of the recall (Wilson's) is 0.24 to 0.76: more than half of all that a
# recall can be. With fewer it tells less still.
LEAST_FILMS = 10


def assess(
    predictions: Predictions,
    *,
    split: str,
    thresholds: Mapping[str, float],
    temperature: float,
    train_genre_counts: Mapping[str, int],
    leaked: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Returns what metrics.json holds.

    Args:
      predictions: of the split that is evaluated, with scores made with the temperature.
      split: its name.
      thresholds: by genre, from `metrics.tune_thresholds` on the validation split.
      temperature: from `calibration.fit_temperature` on the validation split.
      train_genre_counts: films by genre in the TRAINING split.
      leaked: the ids of films whose poster also occurs in another split, from `near_duplicates.leaked`; None: not known.

    Returns:
      `metrics.compute`'s figures; `intervals`, from `uncertainty.intervals`; `calibration`, from `calibration.describe`;
      `unjudged`: `least_films`, and the `genres` with fewer films than that here, or with none in training, each with its
      `films` and `train_films`, which count in every mean as all others do; and `near_duplicates`: None where it is not known,
      else how many `films` are such, and `without` them `examples` and some of the figures, if there are such and others.
    """
    figures = metrics.compute(predictions, split=split, thresholds=thresholds, train_genre_counts=train_genre_counts)
    baselines = {key: figures["baselines"][key]["genres"] for key in figures["baselines"]}
    films = {genre: figures["per_genre"][genre]["support"] for genre in predictions.genres}
    trained = {genre: train_genre_counts.get(genre, 0) for genre in predictions.genres}
    return figures | {
        "intervals": uncertainty.intervals(predictions, thresholds=thresholds, baselines=baselines),
        "calibration": calibration.describe(predictions.labels, predictions.scores, temperature),
        "unjudged": {
            "least_films": LEAST_FILMS,
            "genres": {
                genre: {"films": films[genre], "train_films": trained[genre]}
                for genre in predictions.genres
                if films[genre] < LEAST_FILMS or not trained[genre]
            },
        },
        "near_duplicates": None if leaked is None else _without(predictions, leaked, figures, thresholds, train_genre_counts),
    }


def _without(
    predictions: Predictions,
    leaked: frozenset[str],
    figures: Mapping[str, Any],
    thresholds: Mapping[str, float],
    train_genre_counts: Mapping[str, int],
) -> dict[str, Any]:
    """Counts the films that leaked, and computes the figures of the others."""
    others = np.array([film not in leaked for film in predictions.ids])
    without = None
    if others.any() and not others.all():
        ids = tuple(film for film in predictions.ids if film not in leaked)
        rest = Predictions(ids, predictions.genres, predictions.labels[others], predictions.scores[others])
        every = metrics.compute(rest, split=figures["split"], thresholds=thresholds, train_genre_counts=train_genre_counts)
        without = {key: every[key] for key in ("examples", "loss", "accuracy", "mean_average_precision")}
        without |= {point: {key: every[point][key] for key in metrics.F1} for point in metrics.POINTS}
    return {"films": int((~others).sum()), "without": without}
