"""Intervals: resampled metrics against plain ones and scikit-learn's, and the intervals of known cases."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from trainer.evaluation.metrics import intervals
from trainer.evaluation.metrics.intervals import _Split, bootstrap_intervals
from trainer.evaluation.metrics.metrics import compute_metrics
from trainer.evaluation.metrics.predictions import Predictions
from trainer.process import heartbeat


def random_predictions(*, films=150, genres=5, seed=0, skill=1.5):
    random = np.random.default_rng(seed)
    rates = np.linspace(0.6, 0.05, genres)
    labels = random.random((films, genres)) < rates
    logits = np.log(rates / (1 - rates)) + skill * (labels - rates) + random.normal(size=labels.shape)
    scores = (1 / (1 + np.exp(-logits))).round(2)  # Some films share a score.
    return Predictions(tuple(map(str, range(films))), tuple(f"genre{g}" for g in range(genres)), labels, scores.astype(np.float32))


def chosen(predictions):
    return {
        "thresholds": dict.fromkeys(predictions.genres, 0.3),
        "baselines": {"always_top_1": predictions.genres[:1], "always_top_2": predictions.genres[:2]},
    }


def compute(predictions):
    counts = {genre: 9 - g for g, genre in enumerate(predictions.genres)}
    thresholds = chosen(predictions)["thresholds"]
    return compute_metrics(predictions, split="test", thresholds=thresholds, train_genre_counts=counts)


def weighted(given, weights):
    return _Split.of(given, **chosen(given)).metrics(weights.astype(np.float64))


def at(nested, key):
    for name in key:
        nested = nested[name]
    return nested


def plain(metrics, key):
    if key[0] != "differences":
        return at(metrics, key)
    _, point, baseline, name = key
    return metrics[point][name] - metrics["baselines"][baseline][name]


def test_films_that_count_once_each_give_the_plain_metrics():
    given = random_predictions()
    metrics = compute(given)
    once = weighted(given, np.ones((150, 1)))
    assert len(once) == 3 + 2 * 5 + 2 * 2 * 3 + 5
    for key, (value,) in once.items():
        assert value == pytest.approx(plain(metrics, key), rel=1e-12), key


def test_a_weighted_film_counts_like_so_many_films():
    given = random_predictions(films=60)
    weights = np.random.default_rng(1).integers(0, 3, 60)
    weights[-1] += 60 - weights.sum()
    rows = np.repeat(np.arange(60), weights)
    repeated = Predictions(given.ids, given.genres, given.labels[rows], given.scores[rows])
    metrics = compute(repeated)
    for key, (value,) in weighted(given, weights[:, None]).items():
        assert value == pytest.approx(plain(metrics, key), rel=1e-12), key


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_average_precision_is_scikit_learns_with_ties_and_weights(decimals):
    random = np.random.default_rng(decimals)
    labels, scores = random.random((80, 1)) < 0.2, random.random((80, 1)).round(decimals).astype(np.float32)
    given = Predictions(tuple(map(str, range(80))), ("Drama",), labels, scores)
    weights = random.integers(0, 4, (80, 6))
    weights[:, 0] = 1
    expected = [average_precision_score(labels[:, 0], scores[:, 0], sample_weight=column) for column in weights.T]
    np.testing.assert_allclose(weighted(given, weights)["per_genre", "Drama", "average_precision"], expected, rtol=1e-12)


def test_average_precision_without_a_film_that_counts_is_undefined():
    labels, scores = np.array([[True, False], [False, False]]), np.array([[0.2, 0.2], [0.3, 0.3]], np.float32)
    found = weighted(Predictions(("a", "b"), ("Drama", "War"), labels, scores), np.array([[0, 2], [2, 0]]))
    np.testing.assert_array_equal(found["per_genre", "Drama", "average_precision"], [np.nan, 1])
    assert np.isnan(found["per_genre", "War", "average_precision"]).all()
    np.testing.assert_array_equal(found["mean_average_precision",], [np.nan, 1])


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution():
    # 400 films of which 120 are right: the standard deviation of such a share is 0.0229.
    labels = np.ones((400, 1), bool)
    labels[120:] = False
    given = Predictions(tuple(map(str, range(400))), ("Drama",), labels, np.full((400, 1), 0.9, np.float32))
    found = bootstrap_intervals(given, thresholds={"Drama": 0.5}, baselines={"always_top_1": ["Drama"]})
    assert found["accuracy"] == pytest.approx([0.3 - 1.96 * 0.0229, 0.3 + 1.96 * 0.0229], abs=0.005)
    assert found["at_0.5"]["precision"] == found["accuracy"]
    assert found["differences"]["tuned"]["always_top_1"]["f1_micro"] == [0, 0], "the model does what the baseline does"


def test_intervals_hold_the_true_value_as_often_as_they_say():
    truth = compute(random_predictions(films=10_000, seed=99))
    held = []
    for seed in range(12):
        given = random_predictions(seed=seed)
        found = bootstrap_intervals(given, **chosen(given))
        for key in (("loss",), ("tuned", "f1_micro"), ("differences", "tuned", "always_top_2", "f1_micro")):
            low, high = at(found, key)
            held.append(low <= plain(truth, key) <= high)
    assert 0.88 <= np.mean(held) <= 1


def test_the_interval_of_rare_genres_holds_the_mean_over_splits_and_not_what_resamples_flatter(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 100)

    def rare(seed):
        random = np.random.default_rng(seed)
        labels = random.random((60, 100)) < 0.05
        scores = 1 / (1 + np.exp(3 - labels - random.normal(size=labels.shape)))
        return Predictions(tuple(map(str, range(60))), tuple(map(str, range(100))), labels, scores.astype(np.float32))

    mean = 0.301  # The mean of the metric over the splits with seeds 1,000 to 2,999.
    held = []
    for given in map(rare, range(20)):
        low, high = bootstrap_intervals(given, **chosen(given))["mean_average_precision"]
        held.append(low <= mean <= high)
    assert np.mean(held) >= 0.85, "without the shift it is less than a half"


def test_the_same_films_give_the_same_intervals_however_many_resamples_are_held_at_once(monkeypatch):
    given = random_predictions()
    found = bootstrap_intervals(given, **chosen(given))
    beats = []
    monkeypatch.setattr(heartbeat, "beat", lambda: beats.append(1))
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", 150 * 7)
    assert bootstrap_intervals(given, **chosen(given)) == found
    assert len(beats) == 143, "the guard hears of each seven of a thousand"


@pytest.mark.filterwarnings("error")
def test_what_is_undefined_has_no_interval():
    labels = np.array([[True, False], [True, False]])
    given = Predictions(("a", "b"), ("Drama", "War"), labels, np.array([[0.9, 0.1], [0.2, 0.3]], np.float32))
    found = bootstrap_intervals(given, **chosen(given))
    assert found["per_genre"]["War"]["average_precision"] is None
    assert found["per_genre"]["Drama"]["average_precision"] == [1, 1]
