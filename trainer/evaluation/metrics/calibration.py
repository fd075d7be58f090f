"""Whether a score means what it says: of the decisions with a score of 0.3, are three in ten right?"""

from typing import Any

import numpy as np
from scipy import optimize, special

BINS = 15

_WIDEST = 10.0  # A temperature and its inverse at most: beyond it nothing is left of the scores but their order.


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the number by which the logits are divided for the lowest log loss on these films: the validation split's.

    Temperature scaling (C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017).
    One number for all genres changes no ranking and no decision at a score of 0.5, but what a score means: above 1 it takes
    certainty away, below 1 it adds some. It is 1, and changes nothing, where the loss falls by less than the standard error of
    the fall over films: of a model that needs none, the best temperature on some films would pass that in one case of twenty.

    Args:
      labels: bool [N, G].
      logits: float [N, G].

    Returns:
      A number between 0.1 and 10 with four decimals, so that it is the same wherever it is written down.
    """

    def losses(temperature: float) -> np.ndarray:
        return np.logaddexp(0, np.where(labels, -1.0, 1.0) * logits / temperature).mean(axis=1)

    widest = np.log(_WIDEST)
    best = optimize.minimize_scalar(
        lambda exponent: losses(np.exp(exponent)).mean(), bounds=(-widest, widest), method="bounded", options={"xatol": 1e-6}
    )
    temperature = round(float(np.exp(best.x)), 4)
    gains = losses(1.0) - losses(temperature)
    is_gain = len(gains) > 1 and gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains))
    return temperature if is_gain else 1.0


def describe(labels: np.ndarray, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """Returns the calibration of a split, as in metrics.json: the temperature, and `reliability` before and after it.

    Args:
      labels: bool [N, G].
      scores: float [N, G], made with that temperature.
      temperature: from `fit_temperature`, on the validation split.
    """
    after = scores.astype(np.float64)
    before = after if temperature == 1 else special.expit(special.logit(after) * temperature)
    return {"temperature": temperature, "before": reliability(labels, before), "after": reliability(labels, after)}


def reliability(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Sorts all decisions, one a film and genre, into bins by their score, and compares score and truth in each.

    The expected calibration error (M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning", AAAI 2015) is the mean distance between the two, each bin weighing as much as it has decisions.

    Args:
      labels: bool [N, G].
      scores: float [N, G], in [0, 1].

    Returns:
      `expected_calibration_error`, and `bins`, 15 of equal width from 0 to 1: `decisions`, their mean `score`, and `actual`, the
      share of them that is true; None in an empty bin.
    """
    places = np.minimum((scores.ravel() * BINS).astype(np.int64), BINS - 1)
    decisions = np.bincount(places, minlength=BINS)
    score, actual = (np.bincount(places, weights=values.ravel(), minlength=BINS) for values in (scores, labels))
    return {
        "expected_calibration_error": float(np.abs(score - actual).sum() / decisions.sum()),
        "bins": [
            {"decisions": int(n), "score": float(s / n) if n else None, "actual": float(a / n) if n else None}
            for n, s, a in zip(decisions, score, actual, strict=True)
        ],
    }
