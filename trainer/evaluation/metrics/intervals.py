"""How far a figure can be trusted: how much of it is owed to the films that happen to be in the split.

The bootstrap over films (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979): a resample
draws as many films as the split has, with replacement, so that a film counts 0, 1, 2 … times; the middle 95 % of a figure's values
over the resamples are its interval. Baselines are resampled together with the model, so that the interval of a difference leaves
out what both owe to the same lucky or unlucky films.

Of 100 such intervals about 95 hold the mean of the figure over all splits of this size with films of the same kind. They are not
where another split's own figure would be, which is outside about one time in five, having its own luck too. Nor do they hold its
value for a split of any size: the average precision of a rare genre is higher in a small split. And they know nothing of what
comes before the split: another training run, or other validation films to choose thresholds and temperature on.

An interval is moved by what the resamples are too high or too low in the mean (the bootstrap's estimate of bias; B. Efron and R. J.
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 10). Most figures hardly need it. Average precision does: a film that
is drawn twice stands beside itself in the ranking, which flatters rare genres. Of 100 simulated splits like the real one (686
films, 24 genres, some of which fewer than ten films have) the interval of the mean average precision held the mean over such splits
83 times without it, and 93 times with it.

The same films give the same bits on the same kind of CPU, however many resamples are held at once: counts of films are whole
numbers, which float64 adds exactly in any order, and all else is added film by film. On another kind the logarithms in the loss may
differ in their last bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trainer.evaluation.metrics import metrics
from trainer.evaluation.metrics.metrics import Predictions
from trainer.process import heartbeat

RESAMPLES = 1000
LEVEL = 0.95

_SEED = 0
_CELLS = 1 << 20  # Weights held at a time: 8 MiB, about as much as a core's cache has.

# Where a figure stands in metrics.json, such as ("tuned", "f1_micro").
Figures = dict[tuple[str, ...], np.ndarray]


def intervals(
    predictions: Predictions, *, thresholds: Mapping[str, float], baselines: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Returns the 95 % intervals of a split's figures: bootstrap percentiles, less the bootstrap's bias.

    A resample without any film of a genre has no average precision of it: the mean is then over the others, and the genre's own
    interval over the other resamples.

    Args:
      predictions: of the split.
      thresholds: by genre, the tuned ones.
      baselines: the genres that each of them always names, by its key in metrics.json.

    Returns:
      [low, high] for each figure, nested as in metrics.json, None where it is undefined; for each operating point and baseline the
      interval of the model's F1 less the baseline's, as `differences`; and `resamples` and `level`.
    """
    split = _Split.of(predictions, thresholds, baselines)
    figures = split.figures(np.ones((len(predictions.ids), 1)))
    parts = []
    for weights in _resamples(len(predictions.ids)):
        parts.append(split.figures(weights))
        heartbeat.beat()
    found: dict[str, Any] = {"resamples": RESAMPLES, "level": LEVEL}
    for key, (figure,) in figures.items():
        *folders, name = key
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        limits = (0, np.inf) if name == "loss" else (-1, 1) if "differences" in folders else (0, 1)
        place[name] = _interval(figure, np.concatenate([part[key] for part in parts]), *limits)
    return found


@dataclass(frozen=True)
class _Ranking:
    """A genre's films, the likeliest first, cut after each score that a film with the genre has.

    Attributes:
      named: films down to the last cut.
      found: those of them that have the genre.
      first_named: where in `named` each cut's new films begin, [cuts].
      first_found: where in `found`.
    """

    named: np.ndarray
    found: np.ndarray
    first_named: np.ndarray
    first_found: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> Self:
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        ranked, has_it = scores[order], labels[order]
        last_of_score = np.searchsorted(-ranked, -ranked[has_it], side="right") - 1
        cuts, first_found = np.unique(last_of_score, return_index=True)
        named = order[: cuts[-1] + 1] if len(cuts) else order[:0]
        return cls(named=named, found=order[has_it], first_named=np.concatenate([[0], cuts[:-1] + 1]), first_found=first_found)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Returns scikit-learn's `average_precision_score` under each column of weights, [B]; NaN where no such film counts."""
        if not len(self.found):
            return np.full(weights.shape[1], np.nan)
        found = np.add.reduceat(weights[self.found], self.first_found, axis=0)
        named = np.cumsum(np.add.reduceat(weights[self.named], self.first_named, axis=0), axis=0)
        precision = np.cumsum(found, axis=0) / np.maximum(named, 1)
        with np.errstate(invalid="ignore"):
            return (found * precision).sum(axis=0) / found.sum(axis=0)


@dataclass(frozen=True)
class _Split:
    """What each film adds to the figures of a split.

    Attributes:
      genres: G names.
      labels: bool [N, G].
      decisions: bool [N, G] for each operating point.
      baselines: bool [G] for each baseline: the genres that it always names.
      rankings: one a genre.
      losses: float64 [N], binary cross-entropy.
      hits: bool [N], whether the likeliest genre is the first true one.
      film_f1: float64 [N] for each operating point and baseline.
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
            losses=metrics.film_losses(predictions),
            hits=metrics.first_genre_hits(predictions),
            film_f1={
                key: _f1((labels & named).sum(axis=1), labels.sum(axis=1), named.sum(axis=-1))
                for key, named in (decisions | always).items()
            },
        )

    def figures(self, weights: np.ndarray) -> Figures:
        """Computes the figures of films that count several times, or not at all.

        Args:
          weights: float64 [N, B], how often each film counts in each of B resamples; a column adds up to N.

        Returns:
          float64 [B] for each figure; NaN where it is undefined.
        """
        films, resamples = weights.shape
        actual = _count(self.labels, weights)
        scores = {
            key: self._scores(_count(self.labels & named, weights), actual, _count(named, weights), key, weights)
            for key, named in self.decisions.items()
        }
        constants = {
            key: self._scores(actual * named[:, None], actual, np.outer(named, np.full(resamples, films)), key, weights)
            for key, named in self.baselines.items()
        }
        ranked = np.stack([ranking.average_precision(weights) for ranking in self.rankings])
        defined = ~np.isnan(ranked)
        with np.errstate(invalid="ignore"):
            mean = np.where(defined, ranked, 0).sum(axis=0) / defined.sum(axis=0)
        found: Figures = {
            ("loss",): _total(self.losses, weights) / films,
            ("accuracy",): _count(self.hits[:, None], weights)[0] / films,
            ("mean_average_precision",): mean,
        }
        found |= {(point, name): values for point, own in scores.items() for name, values in own.items()}
        found |= {
            ("differences", point, baseline, name): own[name] - theirs[name]
            for point, own in scores.items()
            for baseline, theirs in constants.items()
            for name in metrics.F1
        }
        return found | {
            ("per_genre", genre, "average_precision"): values for genre, values in zip(self.genres, ranked, strict=True)
        }

    def _scores(
        self, found: np.ndarray, actual: np.ndarray, named: np.ndarray, key: str, weights: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Figures from how many films have each genre and were given it, have it, and were given it: each [G, B]."""
        all_found, all_actual, all_named = (counts.sum(axis=0) for counts in (found, actual, named))
        return {
            "precision": all_found / np.maximum(all_named, 1),
            "recall": all_found / np.maximum(all_actual, 1),
            "f1_micro": _f1(all_found, all_actual, all_named),
            "f1_macro": _f1(found, actual, named).sum(axis=0) / len(found),
            "f1_samples": _total(self.film_f1[key], weights) / len(weights),
        }


def _f1(found: np.ndarray, actual: np.ndarray, named: np.ndarray) -> np.ndarray:
    return 2 * found / np.maximum(actual + named, 1)  # All are whole numbers: where the divisor is 0, so is `found`.


def _count(films: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return films.T.astype(np.float64) @ weights


def _total(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # No matrix product: in which order that adds depends on the machine.
    return (values[:, None] * weights).sum(axis=0)


def _resamples(films: int) -> Iterator[np.ndarray]:
    """Yields how often each film was drawn, float64 [films, some resamples], of `RESAMPLES` in all."""
    random = np.random.default_rng(_SEED)
    at_once = max(_CELLS // films, 1)
    for begin in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - begin)
        drawn = random.integers(films, size=(count, films))
        cells = drawn * count + np.arange(count)[:, None]
        yield np.bincount(cells.ravel(), minlength=films * count).reshape(films, count).astype(np.float64)


def _interval(figure: float, resampled: np.ndarray, least: float, most: float) -> list[float] | None:
    if np.isnan(figure):
        return None
    defined = resampled[~np.isnan(resampled)]
    bounds = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - (defined.mean() - figure)
    return [float(bound) for bound in bounds.clip(least, most)]
