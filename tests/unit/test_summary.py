"""Verdicts, unjudged genres, films that leaked and the printed table."""

import json

import numpy as np
import pytest

from trainer.evaluation import assessment, summary
from trainer.evaluation.metrics import Predictions

GENRES = ("Drama", "Comedy", "War")
COUNTS = {"Drama": 90, "Comedy": 20, "War": 10}


def assess(labels, scores, *, counts=COUNTS, temperature=1.0, thresholds=None, leaked=None):
    labels = np.array(labels, bool)
    genres = GENRES[: labels.shape[1]]
    given = Predictions(tuple(map(str, range(len(labels)))), genres, labels, np.array(scores, np.float32))
    thresholds = thresholds or dict.fromkeys(genres, 0.5)
    return assessment.assess(
        given, split="test", thresholds=thresholds, temperature=temperature, train_genre_counts=counts, leaked=leaked
    )


def labels(films=60):
    return np.eye(3)[np.arange(films) % 3]


def test_without_doubt_there_is_no_warning():
    figures = assess(labels(), 0.1 + 0.8 * labels())
    verdicts = summary.verdicts(figures)
    assert [verdict.clear for verdict in verdicts] == [True, True]
    assert "clearly better than a rule that never looks at a poster, “always Drama and Comedy”" in verdicts[0].sentence
    assert "its micro F1 is 1.000, the rule's 0.444" in verdicts[0].sentence
    assert "WARNING" not in summary.table(figures)


def test_a_model_that_is_worse_than_a_constant_is_warned_of_first_and_named_as_that():
    # At 0.5 it is right; its tuned thresholds are nonsense.
    figures = assess(labels(), 0.1 + 0.8 * labels(), thresholds=dict.fromkeys(GENRES, 0.95))
    lines = summary.table(figures).splitlines()
    assert lines[0].startswith("WARNING: At tuned thresholds the model is WORSE than a rule that never looks at a poster")
    assert lines[1].startswith("At threshold 0.5 the model is clearly better")
    assert not lines[2]


def test_a_lead_that_may_be_chance_is_no_lead():
    # It says what the better constant says, but for one film of sixty on which it is better.
    scores = np.tile([0.9, 0.9, 0.1], (60, 1))
    scores[2] = [0.1, 0.1, 0.9]
    figures = assess(labels(), scores)
    low, high = figures["intervals"]["differences"]["at_0.5"]["always_top_2"]["f1_micro"]
    assert low <= 0 < high
    for verdict in summary.verdicts(figures):
        assert not verdict.clear
        assert "NOT clearly better" in verdict.sentence
        assert "may be chance" in verdict.sentence


def test_a_handful_of_films_says_nothing():
    figures = assess(labels(6), 0.1 + 0.8 * labels(6))
    for verdict in summary.verdicts(figures):
        assert not verdict.clear
        assert "too few films (6)" in verdict.sentence


def test_genres_with_few_films_or_none_in_training_are_not_judged_but_count():
    rare = np.tile([1, 1, 0], (60, 1))
    rare[:3, 2] = 1
    figures = assess(rare, np.full((60, 3), 0.4), counts={"Drama": 5, "War": 8})
    assert figures["unjudged"] == {
        "least_films": 10,
        "genres": {"Comedy": {"films": 60, "train_films": 0}, "War": {"films": 3, "train_films": 8}},
    }
    sentence = summary.unjudged(figures)
    assert "Comedy (60, none in training), War (3)" in sentence
    assert "all 3 genres, the mean average precision over the 3 that a film here has; 1 of them can be judged" in sentence
    assert sentence in summary.table(figures)
    assert figures["mean_average_precision"] == pytest.approx((1 + 1 + 3 / 60) / 3)
    assert summary.unjudged(assess(labels(), labels())) == ""


def test_figures_stand_again_without_films_whose_poster_is_also_in_another_split():
    scores = labels()
    scores[:6] = 1 - scores[:6]  # All wrong: those that are left are all right.
    figures = assess(labels(), scores, leaked=frozenset(map(str, range(6))))
    assert figures["near_duplicates"]["films"] == 6
    assert figures["near_duplicates"]["without"]["examples"] == 54
    assert figures["near_duplicates"]["without"]["tuned"]["f1_micro"] == 1 > figures["tuned"]["f1_micro"]
    assert "another one: 6. Without them, on 54 films: micro F1 1.000," in summary.table(figures)


@pytest.mark.parametrize(
    ("leaked", "said"),
    [
        (None, "Not known: whether posters"),
        (frozenset(), "No poster of this split also occurs"),
        (frozenset({"elsewhere"}), "No poster of this split also occurs"),
        (frozenset(map(str, range(60))), "60, which is all of them"),
    ],
)
def test_it_is_said_whether_posters_are_also_in_another_split(leaked, said):
    assert said in summary.table(assess(labels(), labels(), leaked=leaked))


def test_the_table_has_figures_with_intervals_beside_the_baselines():
    scores = 0.3 + 0.4 * labels() * (np.arange(60) % 5 > 0)[:, None]
    figures = assess(labels(), scores, temperature=1.5)
    lines = summary.table(figures).splitlines()
    low, high = figures["intervals"]["at_0.5"]["f1_micro"]
    assert low < figures["at_0.5"]["f1_micro"] < high
    (row,) = [line for line in lines if line.startswith("micro F1  ")]
    assert f"{figures['at_0.5']['f1_micro']:.3f} [{low:.3f}, {high:.3f}]" in row
    assert any("always Drama and Comedy" in line and "model, threshold 0.5" in line for line in lines)
    low, high = figures["intervals"]["loss"]
    assert any(line.startswith("loss  ") and f"[{low:.4f}, {high:.4f}]" in line for line in lines)
    (lead,) = [line for line in lines if line.startswith("micro F1, lead over always Drama and Comedy")]
    assert f"{figures['at_0.5']['f1_micro'] - figures['baselines']['always_top_2']['f1_micro']:+.3f} [" in lead
    assert any("before the temperature of 1.5" in line for line in lines)
    genres = lines.index(next(line for line in lines if line.startswith("genre ")))
    assert [line.split()[0] for line in lines[genres + 1 : genres + 4]] == list(GENRES)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([[1, 0], [1, 0]], [[0.9, 0.1], [0.2, 0.3]]),
        ([[1, 0]], [[0.9, 0.1]]),
        ([[1], [0], [1]], [[0.9], [0.4], [0.2]]),
        ([[0]], [[0.2]]),
        ([[0, 0], [0, 0]], [[0.1, 0.1], [0.2, 0.2]]),
        ([[1, 1], [1, 1]], [[0.0, 0.0], [1.0, 1.0]]),
        ([[0]] * 12, [[0.2]] * 12),
    ],
)
@pytest.mark.filterwarnings("error")
def test_degenerate_splits_give_json_without_nan_and_a_table(labels, scores):
    figures = assess(labels, scores, temperature=0.5)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert summary.table(figures).startswith("WARNING: ")
