"""The metrics of a split, against values computed by hand and against plain calls of scikit-learn."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.metrics import confusion
from trainer.evaluation.metrics.metrics import chance_average_precision, compute_metrics, mean_average_precision
from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.metrics.thresholds import tune_thresholds

HALF = {"Drama": 0.5, "Comedy": 0.5, "War": 0.5}


def predictions(labels, scores, genres=("Drama", "Comedy", "War")):
    ids = tuple(f"film{row}" for row in range(len(labels)))
    return Predictions(ids, tuple(genres), np.array(labels, bool), np.array(scores, np.float32))


def random_predictions(*, films=200, genres=7, seed=0):
    random = np.random.default_rng(seed)
    rates = np.linspace(0.6, 0.05, genres)
    labels = random.random((films, genres)) < rates
    scores = 1 / (1 + np.exp(-(np.log(rates / (1 - rates)) + 1.2 * labels + random.normal(size=labels.shape))))
    return predictions(labels, scores, [f"genre{g}" for g in range(genres)])


def measure(given, *, thresholds=None, counts=None, split="test"):
    return compute_metrics(
        given,
        split=split,
        thresholds=thresholds or dict.fromkeys(given.genres, 0.5),
        train_genre_counts=counts or {genre: len(given.genres) - g for g, genre in enumerate(given.genres)},
    )


@pytest.fixture(name="four_films")
def fixture_four_films():
    return predictions(
        labels=[[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]],
        scores=[[0.9, 0.6, 0.1], [0.8, 0.3, 0.2], [0.4, 0.7, 0.1], [0.5, 0.2, 0.4]],
    )


def test_metrics_of_four_films_equal_those_computed_by_hand(four_films):
    metrics = measure(four_films)
    # Predicted: Drama+Comedy, Drama, Comedy, Drama. Right: 3 of 5 named, of 5 that there are.
    assert metrics["split"] == "test"
    assert metrics["examples"] == 4
    at_half = metrics["at_0.5"]
    assert at_half["precision"] == pytest.approx(3 / 5)
    assert at_half["recall"] == pytest.approx(3 / 5)
    assert at_half["f1_micro"] == pytest.approx(3 / 5)
    assert at_half["f1_macro"] == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert at_half["f1_samples"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 0) / 4)
    assert at_half["subset_accuracy"] == pytest.approx(1 / 4)
    assert at_half["hamming_loss"] == pytest.approx(4 / 12)
    assert metrics["accuracy"] == pytest.approx(3 / 4)
    drama = metrics["per_genre"]["Drama"]
    assert drama["support"] == 2
    assert drama["average_precision"] == drama["roc_auc"] == 1.0
    assert drama["at_0.5"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(4 / 5),
        "tp": 2,
        "fp": 1,
        "fn": 0,
        "tn": 1,
    }
    # Comedy ranks the films 3, 1, 2, 4: right at ranks 1 and 3.
    assert metrics["per_genre"]["Comedy"]["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics["per_genre"]["Comedy"]["roc_auc"] == pytest.approx(3 / 4)
    assert metrics["mean_average_precision"] == pytest.approx((1 + 5 / 6 + 1) / 3)


def test_loss_is_the_mean_binary_cross_entropy_and_finite_for_a_certain_error(four_films):
    likelihoods = np.where(four_films.labels, four_films.scores, 1 - four_films.scores).astype(np.float64)
    assert measure(four_films)["loss"] == pytest.approx(-np.log(likelihoods).mean(), rel=1e-6)
    certain = predictions([[1, 0]], [[0.0, 0.0]], ["Drama", "Comedy"])
    assert measure(certain)["loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learns(seed):
    given = random_predictions(seed=seed)
    thresholds = tune_thresholds(random_predictions(seed=100 + seed))
    metrics = measure(given, thresholds=thresholds)
    labels, limits = given.labels, np.array([thresholds[genre] for genre in given.genres])
    for point, predicted in (("at_0.5", given.scores >= 0.5), ("tuned", given.scores >= limits)):
        for key, average in (("f1_micro", "micro"), ("f1_macro", "macro"), ("f1_samples", "samples")):
            expected = sklearn_metrics.f1_score(labels, predicted, average=average, zero_division=0)
            assert metrics[point][key] == pytest.approx(expected, abs=1e-12)
        for key, function in (
            ("precision", sklearn_metrics.precision_score),
            ("recall", sklearn_metrics.recall_score),
        ):
            expected = function(labels, predicted, average="micro", zero_division=0)
            assert metrics[point][key] == pytest.approx(expected, abs=1e-12)
        assert metrics[point]["subset_accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
        assert metrics[point]["hamming_loss"] == sklearn_metrics.hamming_loss(labels, predicted)
        tables = sklearn_metrics.multilabel_confusion_matrix(labels, predicted)
        for genre, ((tn, fp), (fn, tp)) in zip(given.genres, tables, strict=True):
            counts = metrics["per_genre"][genre][point]
            assert [counts[key] for key in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
    expected = sklearn_metrics.average_precision_score(labels, given.scores, average="macro")
    assert metrics["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    assert mean_average_precision(given) == metrics["mean_average_precision"]
    expected = sklearn_metrics.roc_auc_score(labels, given.scores, average="macro")
    assert metrics["roc_auc"] == pytest.approx(expected, abs=1e-12)


def test_baselines_predict_the_most_common_genres_of_training_and_not_of_the_split(four_films):
    metrics = measure(four_films, counts={"Drama": 10, "Comedy": 20, "War": 30})
    one, two = metrics["baselines"]["always_top_1"], metrics["baselines"]["always_top_2"]
    assert one["genres"] == ["War"]
    assert two["genres"] == ["War", "Comedy"]
    assert one["precision"] == pytest.approx(1 / 4)
    assert one["recall"] == pytest.approx(1 / 5)
    assert one["subset_accuracy"] == pytest.approx(1 / 4)
    assert two["precision"] == pytest.approx(3 / 8)
    assert two["recall"] == pytest.approx(3 / 5)
    assert set(one) - {"genres"} == set(metrics["at_0.5"])


def test_of_equally_common_genres_a_baseline_takes_the_first(four_films):
    metrics = measure(four_films, counts={"War": 5, "Comedy": 5, "Drama": 5})
    assert metrics["baselines"]["always_top_2"]["genres"] == ["Drama", "Comedy"]


def test_the_keys_are_those_other_programs_read(four_films):
    metrics = measure(four_films)
    overall = [
        "precision",
        "recall",
        "f1_micro",
        "f1_macro",
        "f1_samples",
        "subset_accuracy",
        "hamming_loss",
    ]
    assert list(metrics) == [
        "split",
        "examples",
        "loss",
        "accuracy",
        "mean_average_precision",
        "mean_average_precision_by_chance",
        "roc_auc",
        "at_0.5",
        "tuned",
        "baselines",
        "per_genre",
    ]
    assert list(metrics["at_0.5"]) == overall
    assert list(metrics["tuned"]) == [*overall, "thresholds"]
    assert list(metrics["per_genre"]) == list(metrics["tuned"]["thresholds"]) == ["Drama", "Comedy", "War"]
    ranked = ["average_precision", "average_precision_by_chance", "roc_auc"]
    assert list(metrics["per_genre"]["War"]) == ["support", *ranked, "at_0.5", "tuned"]
    assert list(metrics["per_genre"]["War"]["tuned"]) == ["precision", "recall", "f1", "tp", "fp", "fn", "tn"]


@pytest.mark.parametrize(
    ("labels", "scores", "genres"),
    [
        ([[1, 0], [1, 0]], [[0.9, 0.1], [0.2, 0.3]], ["all films", "no film"]),
        ([[1, 0]], [[0.9, 0.1]], ["one", "film"]),
        ([[1], [0], [1]], [[0.9], [0.4], [0.2]], ["one genre"]),
        ([[1]], [[0.2]], ["one genre of one film"]),
        ([[0]], [[0.2]], ["nothing at all"]),
        ([[0, 0], [0, 0]], [[0.1, 0.1], [0.2, 0.2]], ["no label", "anywhere"]),
        ([[1, 1], [1, 1]], [[0.0, 0.0], [0.0, 0.0]], ["never", "predicted"]),
    ],
)
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_degenerate_splits_give_json_without_nan(labels, scores, genres):
    given = predictions(labels, scores, genres)
    metrics = measure(given, thresholds=tune_thresholds(given))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_what_is_undefined_is_none():
    given = predictions([[1, 0, 0], [1, 0, 1]], [[0.9, 0.1, 0.6], [0.2, 0.3, 0.1]])
    genres = measure(given, thresholds=HALF)["per_genre"]
    assert genres["Drama"]["roc_auc"] is None
    assert genres["Comedy"]["average_precision"] is genres["Comedy"]["roc_auc"] is None
    assert {key: genres["Comedy"]["at_0.5"][key] for key in ("precision", "recall", "f1")} == {
        "precision": None,
        "recall": None,
        "f1": None,
    }
    assert genres["War"]["at_0.5"]["precision"] == genres["War"]["at_0.5"]["f1"] == 0.0
    assert measure(given)["mean_average_precision"] == pytest.approx((1 + 1 / 2) / 2)


def test_metrics_of_a_single_genre_are_those_of_a_binary_problem():
    given = predictions([[1], [0], [1], [0]], [[0.9], [0.8], [0.2], [0.1]], ["Drama"])
    metrics = measure(given)["at_0.5"]
    assert metrics["precision"] == metrics["recall"] == metrics["f1_micro"] == metrics["f1_macro"] == 0.5
    assert metrics["f1_samples"] == 1 / 4
    assert metrics["subset_accuracy"] == metrics["hamming_loss"] == 0.5


def test_a_film_without_genres_counts_as_wrong_in_accuracy():
    given = predictions([[0, 0, 0], [1, 0, 0]], [[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]])
    assert measure(given)["accuracy"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_of_one_genre_is_expected_to_have_a_higher_micro_plus_macro_f1(seed):
    given = random_predictions(films=40, genres=4, seed=seed)
    rounded = predictions(given.labels, given.scores.round(1), given.genres)  # Many films share a score.

    def value(films, thresholds):
        share = films.labels.sum(axis=0) / films.scores.sum(axis=0, dtype=np.float64)
        truth = (films.labels + np.minimum(films.scores * share, 1)) / 2
        decisions = films.predicted(thresholds)
        found, named = 2 * (truth * decisions).sum(axis=0), decisions.sum(axis=0) + films.labels.sum(axis=0)
        return found.sum() / named.sum() + np.mean(found / np.maximum(named, 1))

    for films in (given, rounded):
        tuned = tune_thresholds(films)
        for g, genre in enumerate(films.genres):
            others = [value(films, {**tuned, genre: float(cut)}) for cut in (0.0, 1.1, *films.scores[:, g])]
            assert value(films, tuned) >= max(others) - 1e-9


def test_a_genre_whose_scores_say_nothing_is_not_given_to_all_films():
    random = np.random.default_rng(0)
    labels = np.stack([random.random(400) < 0.5, random.random(400) < 0.03], axis=1)
    scores = np.stack([np.where(labels[:, 0], 0.8, 0.2), random.random(400) * 0.05], axis=1)
    given = predictions(labels, scores, ["Drama", "News"])
    assert given.predicted(tune_thresholds(given))[:, 1].mean() < 0.2


def test_a_tuned_threshold_lies_midway_between_two_scores():
    given = predictions([[1, 1], [1, 0], [0, 0]], [[0.75, 0.75], [0.5, 0.5], [0.25, 0.5]], ["Drama", "Comedy"])
    assert tune_thresholds(given) == {"Drama": 0.375, "Comedy": 0.625}


def test_one_film_alone_does_not_place_the_threshold_of_a_rare_genre():
    labels, scores = np.zeros((100, 2), bool), np.full((100, 2), 0.5)
    labels[:, 0], scores[:, 1] = True, np.linspace(0.5, 0.01, 100) ** 2
    labels[1, 1] = labels[90, 1] = (
        True  # The 91st in the order of scores: to name one film, or 91, has the highest F1 of the labels.
    )
    given = predictions(labels, scores, ["Drama", "News"])
    assert 0 < given.predicted(tune_thresholds(given))[:, 1].sum() < 40


@pytest.mark.parametrize("score", [0.0, 0.1, 1.0])
def test_a_genre_that_no_validation_film_has_is_given_to_none_however_sure_the_model_is(score):
    given = predictions([[1, 0, 0]], [[0.9, score, score]])
    sure = predictions([[1, 1, 1]], [[1.0, 1.0, 1.0]])
    for films in (given, sure):
        assert films.predicted(tune_thresholds(given)).tolist() == [[True, False, False]]


@pytest.mark.parametrize(("films", "having"), [(1, 1), (12, 1), (12, 4), (12, 12), (40, 3)])
def test_average_precision_by_chance_is_the_mean_over_random_rankings(films, having):
    random = np.random.default_rng(0)
    ranks = np.sort(random.random((20_000, films)).argsort(axis=1)[:, :having], axis=1) + 1
    precision = np.arange(1, having + 1) / ranks
    assert chance_average_precision(films, having) == pytest.approx(precision.mean(), rel=0.02)


def test_of_one_film_among_few_chance_is_far_more_than_its_share():
    assert chance_average_precision(4, 1) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert chance_average_precision(4, 0) is None


def test_chance_is_a_mean_over_the_genres_that_the_mean_average_precision_is_of(four_films):
    metrics = measure(four_films)
    assert metrics["per_genre"]["War"]["average_precision_by_chance"] == chance_average_precision(4, 1)
    chance = np.array([chance_average_precision(4, having) for having in (2, 2, 1)], np.float64)
    assert metrics["mean_average_precision_by_chance"] == pytest.approx(chance.mean())
    without = measure(predictions([[1, 0, 0], [0, 0, 1]], [[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]]))
    assert without["per_genre"]["Comedy"]["average_precision_by_chance"] is None
    assert without["mean_average_precision_by_chance"] == pytest.approx(chance_average_precision(2, 1))


def test_a_score_on_the_threshold_counts_as_predicted_and_no_rounding_moves_one_there():
    above = np.nextafter(np.float32(0.3), np.float32(1))
    given = predictions([[1], [1]], [[np.float32(0.3)], [above]], ["Drama"])
    assert given.predicted(float(np.float32(0.3))).all()
    between = (float(np.float32(0.3)) + float(above)) / 2
    assert given.predicted({"Drama": between}).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.zeros((2, 2), bool), np.zeros((3, 2), np.float32), "shape"),
        (np.zeros((0, 2), bool), np.zeros((0, 2), np.float32), "shape"),
        (np.zeros((2, 2), int), np.zeros((2, 2), np.float32), "must be bool"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), np.float64), "scores float32"),
        (np.zeros((2, 2), bool), np.full((2, 2), np.nan, np.float32), "must be in"),
        (np.zeros((2, 2), bool), np.full((2, 2), 1.5, np.float32), "must be in"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        Predictions(tuple("ab"[: len(labels)]), ("Drama", "War"), labels, scores)


@pytest.mark.parametrize(
    ("labels", "predicted", "cells"),
    [
        ([1, 1, 0], [1, 1, 0], {(0, 0): 1, (1, 1): 1}),
        ([1, 1, 0], [1, 0, 0], {(0, 0): 1, (1, 3): 1}),
        ([1, 0, 0], [0, 0, 0], {(0, 3): 1}),
        ([1, 0, 0], [0, 1, 0], {(0, 1): 1}),
        ([1, 1, 0], [1, 0, 1], {(0, 0): 1, (1, 2): 1}),
        ([1, 1, 0], [1, 1, 1], {(0, 0): 1, (1, 1): 1, (0, 2): 1, (1, 2): 1}),
        ([1, 0, 0], [0, 1, 1], {(0, 1): 1, (0, 2): 1}),
        ([0, 0, 0], [0, 1, 1], {(3, 1): 1, (3, 2): 1}),
        ([0, 0, 0], [0, 0, 0], {(3, 3): 1}),
    ],
)
def test_mlcm_of_one_film(labels, predicted, cells):
    expected = np.zeros((4, 4), np.int64)
    for cell, count in cells.items():
        expected[cell] = count
    np.testing.assert_array_equal(confusion.mlcm(np.array([labels], bool), np.array([predicted], bool)), expected)


def test_mlcm_of_a_split_is_the_sum_over_its_films():
    given = random_predictions(films=80)
    predicted = given.scores >= 0.4
    total = sum(confusion.mlcm(given.labels[[row]], predicted[[row]]) for row in range(80))
    matrix = confusion.mlcm(given.labels, predicted)
    np.testing.assert_array_equal(matrix, total)
    np.testing.assert_array_equal(np.diag(matrix)[:-1], (given.labels & predicted).sum(axis=0))
