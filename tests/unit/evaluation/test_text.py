"""Verdicts, unjudged genres, films that leaked and the printed table."""

import json

import numpy as np
import pytest

from trainer.evaluation.metrics import assessment
from trainer.evaluation.metrics.metrics import Predictions
from trainer.evaluation.report import text

GENRES = ("Drama", "Comedy", "War")
COUNTS = {"Drama": 90, "Comedy": 20, "War": 10}


def assess(
    labels, scores, *, counts=COUNTS, temperature=1.0, thresholds=None, leaked=None, split="test", fingerprint="0123456789abcdef"
):
    labels = np.array(labels, bool)
    genres = GENRES[: labels.shape[1]]
    given = Predictions(tuple(map(str, range(len(labels)))), genres, labels, np.array(scores, np.float32))
    thresholds = thresholds or dict.fromkeys(genres, 0.5)
    return assessment.assess(
        given,
        split=split,
        fingerprint=fingerprint,
        trained_on={"fingerprint": "0123456789abcdef", "train": {"examples": 100, "genre_counts": counts}},
        thresholds=thresholds,
        temperature=temperature,
        leaked=leaked,
    )


def labels(films=60):
    return np.eye(3)[np.arange(films) % 3]


def test_without_doubt_there_is_no_warning():
    figures = assess(labels(), 0.1 + 0.8 * labels())
    verdicts = text.verdicts(figures)
    assert [verdict.clear for verdict in verdicts] == [True, True]
    assert "is clearly better than a rule that never looks at a poster, “always Drama and Comedy”" in verdicts[0].sentence
    assert "its micro F1 is 1.000, the rule's 0.444" in verdicts[0].sentence
    assert "WARNING" not in text.table(figures)


def test_a_model_that_is_worse_than_a_constant_is_warned_of_first_and_named_as_that():
    # At 0.5 it is right; its tuned thresholds are nonsense.
    figures = assess(labels(), 0.1 + 0.8 * labels(), thresholds=dict.fromkeys(GENRES, 0.95))
    lines = text.table(figures).splitlines()
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
    for verdict in text.verdicts(figures):
        assert not verdict.clear
        assert "has NOT been shown to beat" in verdict.sentence
        assert "may be chance" in verdict.sentence


def test_a_handful_of_films_says_nothing():
    figures = assess(labels(6), 0.1 + 0.8 * labels(6))
    for verdict in text.verdicts(figures):
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
    sentence = text.unjudged(figures)
    assert "Comedy (60, none in training), War (3)" in sentence
    assert "all 3 genres, the mean average precision over the 3 that a film here has; 1 of them can be judged" in sentence
    assert sentence in text.table(figures)
    assert figures["mean_average_precision"] == pytest.approx((1 + 1 + 3 / 60) / 3)
    assert text.unjudged(assess(labels(), labels())) == ""


def test_figures_stand_again_without_films_whose_poster_is_also_in_another_split():
    scores = labels()
    scores[:6] = 1 - scores[:6]  # All wrong: those that are left are all right.
    figures = assess(labels(), scores, leaked=frozenset(map(str, range(6))))
    assert figures["near_duplicates"]["films"] == 6
    assert figures["near_duplicates"]["without"]["examples"] == 54
    assert figures["near_duplicates"]["without"]["tuned"]["f1_micro"] == 1 > figures["tuned"]["f1_micro"]
    assert "another one: 6. Without them, on 54 films: micro F1 1.000 [1.000, 1.000]," in text.table(figures)


def test_a_lead_that_rests_on_films_that_leaked_is_no_lead():
    # It knows the 30 films that leaked by heart, and gives the others what the better constant does.
    scores = np.tile([0.9, 0.9, 0.1], (60, 1))
    scores[:30] = 0.1 + 0.8 * labels(30)
    leaked = frozenset(map(str, range(30)))
    figures = assess(labels(), scores, leaked=leaked)
    assert figures["intervals"]["differences"]["tuned"]["always_top_2"]["f1_micro"][0] > 0
    assert figures["near_duplicates"]["without"]["intervals"]["differences"]["tuned"]["always_top_2"]["f1_micro"] == [0, 0]
    for verdict in text.verdicts(figures):
        assert not verdict.clear
        assert "on the 30 films whose poster is in no other split, the model has NOT been shown to beat" in verdict.sentence
    assert all(verdict.clear for verdict in text.verdicts(assess(labels(), scores)))


@pytest.mark.parametrize(("leaked", "said"), [(54, "too few films whose poster is in no other split (6)"), (60, "every poster")])
def test_of_a_split_that_leaked_nothing_is_said(leaked, said):
    figures = assess(labels(), labels(), leaked=frozenset(map(str, range(leaked))))
    for verdict in text.verdicts(figures):
        assert not verdict.clear
        assert said in verdict.sentence


def test_it_is_said_which_data_set_it_is_and_what_part_its_films_had_in_making_the_model():
    own = {split: assess(labels(), labels(), split=split) for split in ("train", "validation", "test")}
    assert {split: bool(text.caution(figures)) for split, figures in own.items()} == {
        "train": True,
        "validation": True,
        "test": False,
    }
    assert "trained on these very films" in text.caution(own["train"])
    assert "best epoch were chosen on these very films" in text.table(own["validation"])
    assert "test split of the job's own data set (0123456789ab), 60 films" in text.table(own["test"])
    assert own["test"]["data"] == {"fingerprint": "0123456789abcdef", "is_the_jobs": True}
    for split in own:
        other = assess(labels(), labels(), split=split, fingerprint="fedcba9876543210")
        table = text.table(other)
        assert f"{split} split of another data set (fedcba987654), 60 films" in table
        assert "of another data set than the job's. Whether the model was trained on some of them" in table
        assert "were among those that the model was trained on" in table
        assert "these very films" not in table
        assert "Prepare the data set again" not in table
        assert other["data"] == {"fingerprint": "fedcba9876543210", "is_the_jobs": False}


def test_a_constant_that_is_calibrated_for_nothing_stands_beside_the_model():
    given = np.zeros((100, 3))
    given[:90, 0] = given[:20, 1] = given[:10, 2] = 1
    figures = assess(given, np.full((100, 3), 0.5))
    constant = figures["calibration"]["constant"]
    entropy = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (0.9, 0.2, 0.1)]
    assert constant == {
        "loss": pytest.approx(np.mean(entropy), rel=1e-6),
        "expected_calibration_error": pytest.approx(0, abs=1e-6),
    }
    lines = text.table(figures).splitlines()
    (loss,) = [line for line in lines if line.startswith("loss  ")]
    assert f"(of a constant: {constant['loss']:.4f})" in loss
    (error,) = [line for line in lines if line.startswith("expected calibration error")]
    assert error.endswith("of a constant: 0.000)")


def test_a_genre_that_cannot_be_judged_has_no_interval():
    rare = np.tile([1, 0, 0], (60, 1))
    rare[:30, 1] = rare[:3, 2] = 1
    figures = assess(rare, np.random.default_rng(0).random((60, 3)))
    assert figures["intervals"]["per_genre"]["War"]["average_precision"]
    lines = text.table(figures).splitlines()
    rows = {
        line.split()[0]: line for line in lines[lines.index(next(line for line in lines if line.startswith("genre "))) + 1 :][:3]
    }
    assert {genre: "[" in row for genre, row in rows.items()} == {"Drama": True, "Comedy": True, "War": False}


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
    assert said in text.table(assess(labels(), labels(), leaked=leaked))


def test_the_table_has_figures_with_intervals_beside_the_baselines():
    scores = 0.3 + 0.4 * labels() * (np.arange(60) % 5 > 0)[:, None]
    figures = assess(labels(), scores, temperature=1.5)
    lines = text.table(figures).splitlines()
    low, high = figures["intervals"]["at_0.5"]["f1_micro"]
    assert low < figures["at_0.5"]["f1_micro"] < high
    (row,) = [line for line in lines if line.startswith("micro F1  ")]
    assert f"{figures['at_0.5']['f1_micro']:.3f} [{low:.3f}, {high:.3f}]" in row
    assert any("always Drama and Comedy" in line and "model, threshold 0.5" in line for line in lines)
    (ranking,) = [line for line in lines if line.startswith("mean average precision  ")]
    assert ranking.endswith(f"(by chance: {figures['mean_average_precision_by_chance']:.3f})")
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
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_degenerate_splits_give_json_without_nan_and_a_table(labels, scores):
    figures = assess(labels, scores, temperature=0.5)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert text.table(figures).startswith("WARNING: ")
