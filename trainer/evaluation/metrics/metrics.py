"""The plain figures of an evaluation: thresholds, scores at two operating points, and baselines.

scikit-learn computes what it has a function for. It takes a single column of labels for a binary problem, not for a
multi-label one with a single genre, so its functions are given one genre, or all decisions in a row, at a time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

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

POINTS = {"at_0.5": "threshold 0.5", "tuned": "tuned thresholds"}  # The operating points, by their key in metrics.json.
F1 = {"f1_micro": "micro F1", "f1_macro": "macro F1", "f1_samples": "F1 per film"}  # The three averages of F1, likewise.

# A float32 sigmoid reaches 0 and 1 exactly; this is also where Keras's binary cross-entropy clips.
_CLIP = 1e-7

# Midway between this and any score lies a number above 1, which no score is.
_ABOVE = 3.0


@dataclass(frozen=True)
class Predictions:
    """What a model said of the films of a split, and what they are.

    Attributes:
      ids: N names of films.
      genres: G names, in the data set's order.
      labels: bool [N, G], True where the film has the genre.
      scores: float32 [N, G], in [0, 1]: the sigmoid of the logits, divided by the temperature where there is one.

    Raises:
      ValueError: the shapes do not fit together, there is no film or no genre, or a score is not in [0, 1].
    """

    ids: tuple[str, ...]
    genres: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.genres))
        if self.labels.shape != shape or self.scores.shape != shape or 0 in shape:
            shapes = f"labels {self.labels.shape}, scores {self.scores.shape}"
            raise ValueError(f"{shape[0]} films and {shape[1]} genres do not fit {shapes}")
        if self.labels.dtype != np.bool_ or self.scores.dtype != np.float32:
            raise ValueError(f"labels are {self.labels.dtype}, not bool, or scores are {self.scores.dtype}, not float32")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("a score is not in [0, 1]")

    def predicted(self, thresholds: float | Mapping[str, float]) -> np.ndarray:
        """Returns bool [N, G]: score >= threshold, for one threshold or one a genre."""
        limits = [thresholds[genre] for genre in self.genres] if isinstance(thresholds, Mapping) else [thresholds]
        # In float64: NumPy would round a Python float to the scores' float32 first, perhaps onto a score.
        return self.scores.astype(np.float64) >= np.array(limits, np.float64)

    def at_points(self, thresholds: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Returns what is predicted at each of `POINTS`, bool [N, G]; `thresholds` are the tuned ones, by genre."""
        return {"at_0.5": self.predicted(0.5), "tuned": self.predicted(thresholds)}

    def names(self, decisions: np.ndarray) -> list[str]:
        """Returns the genres that are True in bool [G], in the data set's order."""
        return [genre for genre, decision in zip(self.genres, decisions, strict=True) if decision]


def tune_thresholds(predictions: Predictions) -> dict[str, float]:
    """Returns, by genre, thresholds with a high sum of micro and macro F1 on these predictions: the validation split's.

    The highest F1 of each genre for itself would be the highest macro F1, but ruins the micro F1: where scores are
    poor, a rare genre has its highest F1 when nearly all films are given it (Lipton, Elkan and Naryanaswamy 2014,
    "Optimal Thresholding of Classifiers to Maximize F1 Measure"). So from there on the genres are gone through again
    and again, each moved to its best cut while the others stay, until none moves.

    What a cut finds is counted half by the films that have the genre and half by what their scores let expect: the few films of a
    rare genre, alone, put its threshold anywhere. Tuned on one half of 743 real validation posters and applied to the other, 16
    times, that raised the macro F1 of a network from scratch from 0.200 to 0.214 and of a fine-tuned one from 0.267 to 0.283; the
    micro F1 went from 0.471 to 0.470 and from 0.516 to 0.520. The scores count in proportion alone, so that a network which expects
    too much of a genre everywhere does no harm (Ye, Chai, Lee and Chieu 2012, "Optimizing F-Measures: A Tale of Two Approaches",
    compare the two).

    Every cut between two different scores is tried, and naming no film. Of equally good ones the highest is taken. A threshold lies
    midway between the scores on either side of its cut, so that it does not sit on one film's score. A genre that is best given to
    none, as one that no film here has, gets one above 1, which no score of any film reaches.
    """
    columns = zip(predictions.labels.T, predictions.scores.T.astype(np.float64), strict=True)
    cuts = [_Cuts.of((labels + _expected(labels, scores)) / 2, scores) for labels, scores in columns]
    actual = sum(genre.actual for genre in cuts)
    at = [int(np.argmax(genre.f1)) for genre in cuts]
    moved = True
    while moved:
        moved = False
        for g, genre in enumerate(cuts):
            others = [(cuts[other], at[other]) for other in range(len(cuts)) if other != g]
            named = genre.named + sum(cut.named[place] for cut, place in others)
            found = genre.found + sum(cut.found[place] for cut, place in others)
            value = 2 * found / np.maximum(named + actual, 1) + genre.f1 / len(cuts)
            best = int(np.argmax(value))
            if value[best] > value[at[g]] + 1e-12:  # More than rounding: it must come to an end.
                at[g], moved = best, True
    chosen = zip(predictions.genres, cuts, at, strict=True)
    return {name: float(genre.thresholds[place]) for name, genre, place in chosen}


def _expected(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How likely each film has a genre, in proportion to its score, so that as many are expected to have it as do."""
    return np.minimum(scores * (labels.sum() / max(scores.sum(), np.finfo(np.float64).tiny)), 1.0)


@dataclass(frozen=True)
class _Cuts:
    """What each threshold worth trying gives a genre: films named and films found, [cuts], from the highest threshold down."""

    actual: float
    thresholds: np.ndarray
    named: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Self:
        levels, level_of = np.unique(-scores, return_inverse=True)  # Ascending in -score: the likeliest films come first.
        bounds = np.concatenate([[_ABOVE], -levels, [0.0]])
        return cls(
            actual=float(labels.sum()),
            thresholds=(bounds[:-1] + bounds[1:]) / 2,
            named=np.concatenate([[0], np.cumsum(np.bincount(level_of))]),
            found=np.concatenate([[0], np.cumsum(np.bincount(level_of, weights=labels))]),
        )

    @property
    def f1(self) -> np.ndarray:
        return 2 * self.found / np.maximum(self.named + self.actual, 1)


def mean_average_precision(predictions: Predictions) -> float | None:
    """Returns the mean over genres of the average precision, over those that a film here has; None if there is none."""
    return _mean(_average_precision(*column) for column in _columns(predictions))


def chance_average_precision(films: int, having: int) -> float | None:
    """Returns the average precision to be expected of a random ranking, in which no two films share a score.

    It is more than the genre's share of the films, and the more so the fewer they are: the first film with the genre is sometimes
    near the top (Y. Bestgen, "Exact Expected Average Precision of the Random Baseline for System Evaluation", The Prague Bulletin
    of Mathematical Linguistics 103, 2015).

    Args:
      films: how many are ranked.
      having: how many of them have the genre; with none it is undefined, None.
    """
    if not having:
        return None
    first = (special.digamma(films + 1) + np.euler_gamma) / films  # The mean of 1, 1/2, … 1/films: what one film alone gets.
    return float(first + (having - 1) / max(films - 1, 1) * (1 - first))


def compute(
    predictions: Predictions, *, split: str, thresholds: Mapping[str, float], train_genre_counts: Mapping[str, int]
) -> dict[str, Any]:
    """Computes the figures of metrics.json, without what `assessment.assess` adds on how far they can be trusted.

    `loss` is the mean binary cross-entropy (natural logarithm) over films and genres, of scores clipped to [1e-7, 1 - 1e-7].
    `accuracy` is categorical: the share of films whose likeliest genre is the first true one in the data set's order; a film
    without genres counts as wrong. The figures of an operating point count what is undefined as 0, also within an average, as
    scikit-learn's `zero_division=0` does. The mean average precision, what it would be by chance, and ROC AUC are means over the
    genres for which they are defined. A figure of one genre that is undefined is None.

    Args:
      predictions: of the split that is evaluated.
      split: its name.
      thresholds: by genre, from `tune_thresholds` on the validation split.
      train_genre_counts: films by genre in the TRAINING split; the baselines name the one or two commonest there.

    Returns:
      Plain dicts, lists, strings, ints, finite floats and None, keyed as in metrics.json.
    """
    labels, scores = predictions.labels, predictions.scores.astype(np.float64)
    chance = [chance_average_precision(len(labels), int(support)) for support in labels.sum(axis=0)]
    predicted = predictions.at_points(thresholds)
    points = {point: _figures(labels, decisions) for point, decisions in predicted.items()}
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
            | {point: _genre_figures(labels[:, g], decisions[:, g]) for point, decisions in predicted.items()}
            for g, genre in enumerate(predictions.genres)
        },
    }


def film_losses(predictions: Predictions) -> np.ndarray:
    """Returns what each film adds to `loss`, float64 [N]: its mean over genres."""
    scores = predictions.scores.astype(np.float64).clip(_CLIP, 1 - _CLIP)
    return -np.log(np.where(predictions.labels, scores, 1 - scores)).mean(axis=1)


def first_genre_hits(predictions: Predictions) -> np.ndarray:
    """Returns what `accuracy` counts, bool [N]: whether the likeliest genre is the film's first true one."""
    labels, first = predictions.labels, predictions.labels.argmax(axis=1)
    return labels[np.arange(len(labels)), first] & (predictions.scores.argmax(axis=1) == first)


def _figures(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    # Micro averages pool all decisions: they are the binary figures of the flattened arrays.
    flat = labels.ravel(), predicted.ravel()
    precision, recall, f1_micro, _ = precision_recall_fscore_support(*flat, average="binary", zero_division=0.0)
    genres = zip(labels.T, predicted.T, strict=True)
    # One more label that is always absent changes nothing per film, and makes a single genre a multi-label problem.
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
    commonest = sorted(predictions.genres, key=lambda genre: -train_genre_counts.get(genre, 0))[:count]
    always = np.array([genre in commonest for genre in predictions.genres])
    return {"genres": commonest} | _figures(predictions.labels, np.tile(always, (len(predictions.ids), 1)))


def _genre_figures(labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    tn, fp, fn, tp = (int(count) for count in confusion_matrix(labels, predicted, labels=[False, True]).ravel())
    ratios = {"precision": (tp, tp + fp), "recall": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn)}
    figures = {name: above / below if below else None for name, (above, below) in ratios.items()}
    return figures | {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    return float(average_precision_score(labels, scores)) if labels.any() else None


def _roc_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    return float(roc_auc_score(labels, scores)) if labels.any() and not labels.all() else None


def _columns(predictions: Predictions) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(predictions.labels.T, predictions.scores.T, strict=True)


def _mean(figures: Iterable[float | None]) -> float | None:
    defined = [figure for figure in figures if figure is not None]
    return float(np.mean(defined)) if defined else None
