"""Calibration: errors computed by hand, and known temperatures."""

import numpy as np
import pytest

from trainer.evaluation.metrics import calibration


def drawn(temperature, *, films=1500, genres=6, seed=0):
    """Returns labels drawn with the sigmoid of the logits as probability, and the logits times a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 1.5, (films, genres))
    labels = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return labels, (temperature * logits).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_known_temperature_is_found(temperature):
    assert calibration.fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_a_calibrated_model_mostly_keeps_temperature_one():
    found = [calibration.fit_temperature(*drawn(1.0, films=200, seed=seed)) for seed in range(40)]
    assert found.count(1.0) >= 35


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_one_film_or_no_film_with_a_genre_gives_a_usable_temperature():
    assert calibration.fit_temperature(np.array([[True, False]]), np.array([[3.0, 1.0]], np.float32)) == 1.0
    without = calibration.fit_temperature(np.zeros((5, 2), bool), np.full((5, 2), -3, np.float32))
    assert 0.1 <= without <= 1


def test_the_calibration_error_computed_by_hand():
    # In the bin of 0.1 one of four is true, in the bin of 0.9 both are. A score of 1 is in the last bin.
    scores = np.array([[0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 1.0, 1.0]])
    labels = np.array([[True, False, False, False, True, True, True, False]])
    found = calibration.reliability(labels, scores)
    assert found["expected_calibration_error"] == pytest.approx((4 * 0.15 + 2 * 0.1 + 2 * 0.5) / 8)
    counts = {index: cell["decisions"] for index, cell in enumerate(found["bins"]) if cell["decisions"]}
    assert counts == {1: 4, 13: 2, 14: 2}
    assert found["bins"][1] == {"decisions": 4, "score": pytest.approx(0.1), "actual": 0.25}
    assert found["bins"][0] == {"decisions": 0, "score": None, "actual": None}


def test_before_and_after_a_temperature():
    labels, logits = drawn(2.0)
    temperature = calibration.fit_temperature(labels, logits)
    untempered, scores = (1 / (1 + np.exp(-logits / divisor)) for divisor in (1, temperature))
    found = calibration.calibration_metrics(labels, scores, temperature)
    assert found["after"]["expected_calibration_error"] < 0.02 < found["before"]["expected_calibration_error"]
    expected = calibration.reliability(labels, untempered)["expected_calibration_error"]
    assert found["before"]["expected_calibration_error"] == pytest.approx(expected, abs=1e-4)
    untouched = calibration.calibration_metrics(labels, untempered, 1.0)
    assert untouched["before"] == untouched["after"]
