"""The metrics of a split and of the baselines, without intervals.

scikit-learn computes what it has a function for. It treats a single column of labels as a binary problem, not as a multi-label
problem with one genre. Its functions therefore get one genre at a time, or all decisions in one flat array.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import special
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    hamming_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from trainer.evaluation.metrics.predictions import Predictions

F1_AVERAGES = {"f1_micro": "micro F1", "f1_macro": "macro F1", "f1_samples": "F1 per film"}
"""The three averages of F1: their keys in metrics.json and their names in the report."""

# A float32 sigmoid reaches 0 and 1 exactly. Keras's binary cross-entropy clips here too.
_CLIP = 1e-7


def compute_metrics(
    predictions: Predictions, *, split: str, thresholds: Mapping[str, float], train_genre_counts: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the metrics of a split, as in metrics.json; `metrics_json.compute_metrics_json` adds intervals and cautions.

    `loss` is the mean binary cross-entropy (natural logarithm) over films and genres, of scores clipped to [1e-7, 1 - 1e-7].
    `accuracy` is categorical: the share of films whose likeliest genre is the first true one in the data set's order; a film
    without genres counts as wrong. At an operating point an undefined metric counts as 0, also within an average, as
    scikit-learn's `zero_division=0` does. The mean average precision, its value by chance and ROC AUC are means over the genres
    for which they are defined. An undefined metric of one genre is None.

    Args:
      predictions: the predictions for the split.
      split: the name of the split.
      thresholds: the tuned threshold of each genre, from `tune_thresholds` on the validation split.
      train_genre_counts: the number of films by genre in the training split; the baselines predict the one or two most common.

    Returns:
      Plain dicts, lists, strings, ints, finite floats and None, with the keys of metrics.json.
    """
    labels, scores = predictions.labels, predictions.scores.astype(np.float64)
    chance = [chance_average_precision(len(labels), int(support)) for support in labels.sum(axis=0)]
    predicted = predictions.at_points(thresholds)
    points = {point: _point_metrics(labels, decisions) for point, decisions in predicted.items()}
    return {
        "split": split,
        "examples": len(labels),
        "loss": float(film_losses(predictions).mean()),
        "accuracy": float(first_genre_hits(predictions).mean()),
        "mean_average_precision": mean_average_precision(predictions),
        "mean_average_precision_by_chance": _mean(chance),
        "roc_auc": _mean(_roc_auc(*column) for column in _columns(predictions)),
        "at_0.5": points["at_0.5"],
        "tuned": points["tuned"] | {"thresholds": {genre: float(thresholds[genre]) for genre in predictions.genres}},
        "baselines": {f"always_top_{count}": _baseline(predictions, train_genre_counts, count=count) for count in (1, 2)},
        "per_genre": {
            genre: {
                "support": int(labels[:, g].sum()),
                "average_precision": _average_precision(labels[:, g], scores[:, g]),
                "average_precision_by_chance": chance[g],
                "roc_auc": _roc_auc(labels[:, g], scores[:, g]),
            }
            | {point: _genre_metrics(labels[:, g], decisions[:, g]) for point, decisions in predicted.items()}
            for g, genre in enumerate(predictions.genres)
        },
    }


def mean_average_precision(predictions: Predictions) -> float | None:
    """Returns the mean of the average precision over the genres that at least one film has; None if no film has a genre."""
    return _mean(_average_precision(*column) for column in _columns(predictions))


def chance_average_precision(films: int, having: int) -> float | None:
    """Returns the expected average precision of a random ranking, in which no two films share a score.

    It is higher than the genre's share of the films, and more so the fewer films there are: the first film with the genre is
    sometimes near the top (Y. Bestgen, "Exact Expected Average Precision of the Random Baseline for System Evaluation", The
    Prague Bulletin of Mathematical Linguistics 103, 2015).

    Args:
      films: the number of films that are ranked.
      having: the number of these films that have the genre.

    Returns:
      The expected average precision; None, for undefined, if no film has the genre.
    """
    if not having:
        return None
    first = (special.digamma(films + 1) + np.euler_gamma) / films  # The mean of 1, 1/2, … 1/films: the value for one film.
    return float(first + (having - 1) / max(films - 1, 1) * (1 - first))


def film_losses(predictions: Predictions) -> np.ndarray:
    """Returns the loss of each film, float64 [N]: its mean binary cross-entropy over genres."""
    scores = predictions.scores.astype(np.float64).clip(_CLIP, 1 - _CLIP)
    return -np.log(np.where(predictions.labels, scores, 1 - scores)).mean(axis=1)


def first_genre_hits(predictions: Predictions) -> np.ndarray:
    """Returns which films `accuracy` counts as right, bool [N]: the likeliest genre is the film's first true one."""
    labels, first = predictions.labels, predictions.labels.argmax(axis=1)
    return labels[np.arange(len(labels)), first] & (predictions.scores.argmax(axis=1) == first)


def _point_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Returns the metrics of an operating point, over all genres; both arguments are bool [N, G]."""
    # Micro averages pool all decisions: they are the binary metrics of the flattened arrays.
    flat = labels.ravel(), predicted.ravel()
    precision, recall, f1_micro, _ = precision_recall_fscore_support(*flat, average="binary", zero_division=0.0)
    genres = zip(labels.T, predicted.T, strict=True)
    # One more label that is always absent changes no film's metrics, and makes a single genre a multi-label problem.
    films = np.pad(labels, ((0, 0), (0, 1))), np.pad(predicted, ((0, 0), (0, 1)))
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1_micro": float(f1_micro),
        "f1_macro": float(np.mean([f1_score(*genre, zero_division=0.0) for genre in genres])),
        "f1_samples": float(f1_score(*films, average="samples", zero_division=0.0)),
        "subset_accuracy": float(accuracy_score(*films)),
        "hamming_loss": float(hamming_loss(*flat)),
    }


def _baseline(predictions: Predictions, train_genre_counts: Mapping[str, int], *, count: int) -> dict[str, Any]:
    # `sorted` is stable: of equally common genres the first in the data set's order is taken.
    most_common = sorted(predictions.genres, key=lambda genre: -train_genre_counts.get(genre, 0))[:count]
    always = np.array([genre in most_common for genre in predictions.genres])
    return {"genres": most_common} | _point_metrics(predictions.labels, np.tile(always, (len(predictions.ids), 1)))


def _genre_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of one genre at an operating point; both arguments are bool [N]."""
    tn, fp, fn, tp = (int(count) for count in confusion_matrix(labels, predicted, labels=[False, True]).ravel())
    ratios = {"precision": (tp, tp + fp), "recall": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn)}
    metrics = {name: above / below if below else None for name, (above, below) in ratios.items()}
    return metrics | {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    return float(average_precision_score(labels, scores)) if labels.any() else None


def _roc_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    return float(roc_auc_score(labels, scores)) if labels.any() and not labels.all() else None


def _columns(predictions: Predictions) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(predictions.labels.T, predictions.scores.T, strict=True)


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
