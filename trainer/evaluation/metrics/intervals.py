"""Computes intervals for metrics: how much a metric depends on which films happen to be in the split.

The bootstrap over films (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979): each
resample draws as many films as the split has, with replacement, so that a film counts 0, 1, 2 … times. The middle 95 % of a
metric's values over the resamples are its interval. Baselines are resampled together with the model. So the interval of a
difference excludes what both gain or lose by the same easy or hard films.

About 95 of 100 such intervals contain the metric's mean over all splits of this size with films of the same kind. An interval
is not:
  - where another split's metric would be: that depends on its own films too, and is outside the interval about one time in five;
  - an interval for a split of another size: the average precision of a rare genre is higher in a small split;
  - a measure of other training runs, or of other validation films on which to choose thresholds and temperature.

The mean of a metric over the resamples may be too high or too low; each interval is shifted by this difference (the bootstrap's
estimate of bias; B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 10). Most metrics hardly need
the shift. Average precision does: a film that is drawn twice is ranked next to itself, which raises the value for rare genres. In
100 simulated splits like the real one (686 films, 24 genres, some with fewer than ten films), the interval of the mean average
precision contained the mean over such splits 83 times without the shift, and 93 times with it.

The same films give the same bits on the same kind of CPU, however many resamples are computed at once: counts of films are whole
numbers, which float64 adds exactly in any order, and everything else is added film by film. On another kind of CPU the logarithms
in the loss may differ in their last bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trainer.evaluation.metrics.metrics import F1_AVERAGES, film_losses, first_genre_hits
from trainer.evaluation.metrics.predictions import Predictions
from trainer.process import heartbeat

RESAMPLES = 1000
LEVEL = 0.95

_SEED = 0
_WEIGHTS_AT_ONCE = 1 << 20  # Weights in memory at a time: 8 MiB, about the size of a core's cache.

# Values of each metric, one for each resample, by the metric's keys in metrics.json, such as ("tuned", "f1_micro").
_Resampled = dict[tuple[str, ...], np.ndarray]


def bootstrap_intervals(
    predictions: Predictions, *, thresholds: Mapping[str, float], baselines: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Returns the 95 % interval of each metric of a split: bootstrap percentiles, corrected for the bootstrap's bias.

    A resample without any film of a genre has no average precision for it. Its mean average precision is then the mean over the
    other genres, and the genre's own interval uses the other resamples.

    Args:
      predictions: the predictions for the split.
      thresholds: the tuned threshold of each genre.
      baselines: the genres that each baseline always predicts, by the baseline's key in metrics.json.

    Returns:
      [low, high] for each metric, nested as in metrics.json, None where the metric is undefined; as `differences` the interval of
      the model's F1 minus the baseline's, for each operating point and baseline; `resamples`, their number; and `level`, 0.95.
    """
    split = _Split.of(predictions, thresholds, baselines)
    measured = split.metrics(np.ones((len(predictions.ids), 1)))
    parts = []
    for weights in _resamples(len(predictions.ids)):
        parts.append(split.metrics(weights))
        heartbeat.beat()
    intervals: dict[str, Any] = {"resamples": RESAMPLES, "level": LEVEL}
    for key, (value,) in measured.items():
        *parents, name = key
        parent = intervals
        for parent_key in parents:
            parent = parent.setdefault(parent_key, {})
        limits = (0, np.inf) if name == "loss" else (-1, 1) if "differences" in parents else (0, 1)
        parent[name] = _interval(value, np.concatenate([part[key] for part in parts]), *limits)
    return intervals


@dataclass(frozen=True)
class _Ranking:
    """The films of a split ranked by their score for one genre, with a cut after each score that a film with the genre has.

    Attributes:
      predicted: the rows of all films above the last cut, the highest score first.
      found: the rows of the films that have the genre, the highest score first.
      first_predicted: [cuts], the index in `predicted` at which the films of each cut begin.
      first_found: [cuts], the same index in `found`.
    """

    predicted: np.ndarray
    found: np.ndarray
    first_predicted: np.ndarray
    first_found: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Self:
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        ranked, has_it = scores[order], labels[order]
        last_of_score = np.searchsorted(-ranked, -ranked[has_it], side="right") - 1
        cuts, first_found = np.unique(last_of_score, return_index=True)
        return cls(
            predicted=order[: cuts[-1] + 1] if len(cuts) else order[:0],
            found=order[has_it],
            first_predicted=np.concatenate([[0], cuts[:-1] + 1]),
            first_found=first_found,
        )

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Returns scikit-learn's `average_precision_score` for each column of `weights`, [B]; NaN where undefined."""
        if not len(self.found):
            return np.full(weights.shape[1], np.nan)
        found = np.add.reduceat(weights[self.found], self.first_found, axis=0)
        predicted = np.cumsum(np.add.reduceat(weights[self.predicted], self.first_predicted, axis=0), axis=0)
        precision = np.cumsum(found, axis=0) / np.maximum(predicted, 1)
        with np.errstate(invalid="ignore"):
            return (found * precision).sum(axis=0) / found.sum(axis=0)


@dataclass(frozen=True)
class _Split:
    """What each film contributes to the metrics of a split.

    Attributes:
      genres: G genre names.
      labels: bool [N, G], the true genres of each film.
      decisions: bool [N, G] for each operating point: the predicted genres.
      baselines: bool [G] for each baseline: the genres that it always predicts.
      rankings: the ranking of the films for each genre.
      losses: float64 [N], the binary cross-entropy of each film.
      hits: bool [N], whether the film's likeliest genre is its first true one.
      film_f1: float64 [N] for each operating point and baseline: the F1 of each film.
    """

    genres: tuple[str, ...]
    labels: np.ndarray
    decisions: Mapping[str, np.ndarray]
    baselines: Mapping[str, np.ndarray]
    rankings: Sequence[_Ranking]
    losses: np.ndarray
    hits: np.ndarray
    film_f1: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, predictions: Predictions, thresholds: Mapping[str, float], baselines: Mapping[str, Sequence[str]]) -> Self:
        labels = predictions.labels
        decisions = predictions.at_points(thresholds)
        always = {key: np.isin(predictions.genres, genres) for key, genres in baselines.items()}
        return cls(
            genres=predictions.genres,
            labels=labels,
            decisions=decisions,
            baselines=always,
            rankings=[_Ranking.of(*column) for column in zip(labels.T, predictions.scores.T, strict=True)],
            losses=film_losses(predictions),
            hits=first_genre_hits(predictions),
            film_f1={
                key: _f1((labels & predicted).sum(axis=1), labels.sum(axis=1), predicted.sum(axis=-1))
                for key, predicted in (decisions | always).items()
            },
        )

    def metrics(self, weights: np.ndarray) -> _Resampled:
        """Returns the metrics of each resample.

        Args:
          weights: float64 [N, B], how often each film counts in each of B resamples; each column adds up to N.

        Returns:
          float64 [B] for each metric; NaN where it is undefined.
        """
        films, resamples = weights.shape
        actual = _count(self.labels, weights)
        points = {
            key: self._averages(_count(self.labels & predicted, weights), actual, _count(predicted, weights), key, weights)
            for key, predicted in self.decisions.items()
        }
        baselines = {
            key: self._averages(actual * always[:, None], actual, np.outer(always, np.full(resamples, films)), key, weights)
            for key, always in self.baselines.items()
        }
        average_precision = np.stack([ranking.average_precision(weights) for ranking in self.rankings])
        defined = ~np.isnan(average_precision)
        with np.errstate(invalid="ignore"):
            mean = np.where(defined, average_precision, 0).sum(axis=0) / defined.sum(axis=0)
        values: _Resampled = {
            ("loss",): _total(self.losses, weights) / films,
            ("accuracy",): _count(self.hits[:, None], weights)[0] / films,
            ("mean_average_precision",): mean,
        }
        values |= {(point, name): value for point, own in points.items() for name, value in own.items()}
        values |= {
            ("differences", point, baseline, name): own[name] - theirs[name]
            for point, own in points.items()
            for baseline, theirs in baselines.items()
            for name in F1_AVERAGES
        }
        genres = zip(self.genres, average_precision, strict=True)
        return values | {("per_genre", genre, "average_precision"): value for genre, value in genres}

    def _averages(
        self, found: np.ndarray, actual: np.ndarray, predicted: np.ndarray, key: str, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns precision, recall and F1 over all genres, [B] each.

        Args:
          found: [G, B], the number of films that have the genre and are predicted to have it.
          actual: [G, B], the number of films that have the genre.
          predicted: [G, B], the number of films that are predicted to have the genre.
          key: the operating point or baseline.
          weights: float64 [N, B], how often each film counts in each resample.
        """
        all_found, all_actual, all_predicted = (counts.sum(axis=0) for counts in (found, actual, predicted))
        return {
            "precision": all_found / np.maximum(all_predicted, 1),
            "recall": all_found / np.maximum(all_actual, 1),
            "f1_micro": _f1(all_found, all_actual, all_predicted),
            "f1_macro": _f1(found, actual, predicted).sum(axis=0) / len(found),
            "f1_samples": _total(self.film_f1[key], weights) / len(weights),
        }


def _f1(found: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return (
        2 * found / np.maximum(actual + predicted, 1)
    )  # Counts are whole numbers: where the divisor would be 0, `found` is 0 too.


def _count(films: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return films.T.astype(np.float64) @ weights


def _total(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Not as a matrix product, whose order of addition depends on the machine.
    return (values[:, None] * weights).sum(axis=0)


def _resamples(films: int) -> Iterator[np.ndarray]:
    """Yields `RESAMPLES` resamples, some at a time: how often each film was drawn, float64 [films, resamples]."""
    random = np.random.default_rng(_SEED)
    at_once = max(_WEIGHTS_AT_ONCE // films, 1)
    for begin in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - begin)
        drawn = random.integers(films, size=(count, films))
        cells = drawn * count + np.arange(count)[:, None]
        yield np.bincount(cells.ravel(), minlength=films * count).reshape(films, count).astype(np.float64)


def _interval(value: float, resampled: np.ndarray, least: float, most: float) -> list[float] | None:
    if np.isnan(value):
        return None
    defined = resampled[~np.isnan(resampled)]
    bounds = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - (defined.mean() - value)
    return [float(bound) for bound in bounds.clip(least, most)]
