"""Calibration: fits the temperature, and measures whether three in ten decisions with a score of 0.3 are true."""

from typing import Any

import numpy as np
from scipy import optimize, special

BINS = 15

# The highest temperature, and the inverse of the lowest. Beyond it only the order of the scores would be left.
_HIGHEST_TEMPERATURE = 10.0


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the temperature with the lowest log loss: the number by which to divide the logits.

    This is temperature scaling (C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML
    2017), with one temperature for all genres. It changes what a score means, but no ranking and no decision at a score of 0.5: a
    temperature above 1 moves scores towards 0.5, one below 1 moves them away from it.

    The temperature stays 1 unless the loss falls by more than the standard error of that fall over films. For a model that needs
    no temperature, the best one on a random set of films passes this test in one case of twenty.

    Args:
      labels: bool [N, G], the true genres of the validation films.
      logits: float [N, G], the network's outputs for the same films.

    Returns:
      A number between 0.1 and 10, rounded to four decimals, so that it is the same wherever it is written.
    """

    def losses(temperature: float) -> np.ndarray:
        return np.logaddexp(0, np.where(labels, -1.0, 1.0) * logits / temperature).mean(axis=1)

    widest = np.log(_HIGHEST_TEMPERATURE)
    best = optimize.minimize_scalar(
        lambda exponent: losses(np.exp(exponent)).mean(), bounds=(-widest, widest), method="bounded", options={"xatol": 1e-6}
    )
    temperature = round(float(np.exp(best.x)), 4)
    gains = losses(1.0) - losses(temperature)
    is_gain = len(gains) > 1 and gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains))
    return temperature if is_gain else 1.0


def calibration_metrics(labels: np.ndarray, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """Returns the calibration of a split, as in metrics.json: the temperature, and `reliability` before and after it is applied.

    Args:
      labels: bool [N, G], the true genres of each film.
      scores: float [N, G], computed with that temperature.
      temperature: the temperature, from `fit_temperature` on the validation split.
    """
    after = scores.astype(np.float64)
    before = after if temperature == 1 else special.expit(special.logit(after) * temperature)
    return {"temperature": temperature, "before": reliability(labels, before), "after": reliability(labels, after)}


def reliability(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Returns how far scores are from the share of decisions that are true, over all decisions (one for each film and genre).

    The decisions are sorted into bins by their score. The expected calibration error (M. P. Naeini, G. F. Cooper and M.
    Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015) is the mean over the bins of the
    distance between mean score and true share, weighted by the number of decisions.

    Args:
      labels: bool [N, G], the true genres of each film.
      scores: float [N, G], in [0, 1].

    Returns:
      `expected_calibration_error`, and `bins`: 15 bins of equal width from 0 to 1, each with the number of `decisions`, their
      mean `score`, and `actual`, the share that is true; the last two are None in an empty bin.
    """
    bin_of = np.minimum((scores.ravel() * BINS).astype(np.int64), BINS - 1)
    decisions = np.bincount(bin_of, minlength=BINS)
    score, actual = (np.bincount(bin_of, weights=values.ravel(), minlength=BINS) for values in (scores, labels))
    return {
        "expected_calibration_error": float(np.abs(score - actual).sum() / decisions.sum()),
        "bins": [
            {"decisions": int(n), "score": float(s / n) if n else None, "actual": float(a / n) if n else None}
            for n, s, a in zip(decisions, score, actual, strict=True)
        ],
    }
