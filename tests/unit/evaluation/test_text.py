"""The verdicts, the genres with too few films, the near-duplicates and the printed table."""

import json

import numpy as np
import pytest

from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.report import text

GENRES = ("Drama", "Comedy", "War")
COUNTS = {"Drama": 90, "Comedy": 20, "War": 10}


def measure(
    labels, scores, *, counts=COUNTS, temperature=1.0, thresholds=None, leaked=None, split="test", fingerprint="0123456789abcdef"
):
    labels = np.array(labels, bool)
    genres = GENRES[: labels.shape[1]]
    given = Predictions(tuple(map(str, range(len(labels)))), genres, labels, np.array(scores, np.float32))
    thresholds = thresholds or dict.fromkeys(genres, 0.5)
    return compute_metrics_json(
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


def test_a_clear_lead_gives_no_warning():
    metrics = measure(labels(), 0.1 + 0.8 * labels())
    verdicts = text.verdicts(metrics)
    assert [verdict.clear for verdict in verdicts] == [True, True]
    assert "is clearly better than a baseline that never looks at a poster, “always Drama and Comedy”" in verdicts[0].sentence
    assert "its micro F1 is 1.000, the baseline's 0.444" in verdicts[0].sentence
    assert "WARNING" not in text.table(metrics)


def test_the_first_line_warns_of_a_model_that_is_worse_than_a_baseline():
    # At 0.5 it is right; its tuned thresholds are nonsense.
    metrics = measure(labels(), 0.1 + 0.8 * labels(), thresholds=dict.fromkeys(GENRES, 0.95))
    lines = text.table(metrics).splitlines()
    assert lines[0].startswith("WARNING: At tuned thresholds the model is WORSE than a baseline that never looks at a poster")
    assert lines[1].startswith("At threshold 0.5 the model is clearly better")
    assert not lines[2]


def test_a_lead_that_may_be_chance_is_not_clear():
    # It says what the better constant says, but for one film of sixty on which it is better.
    scores = np.tile([0.9, 0.9, 0.1], (60, 1))
    scores[2] = [0.1, 0.1, 0.9]
    metrics = measure(labels(), scores)
    low, high = metrics["intervals"]["differences"]["at_0.5"]["always_top_2"]["f1_micro"]
    assert low <= 0 < high
    for verdict in text.verdicts(metrics):
        assert not verdict.clear
        assert "has NOT been shown to beat" in verdict.sentence
        assert "may be chance" in verdict.sentence


def test_a_handful_of_films_says_nothing():
    metrics = measure(labels(6), 0.1 + 0.8 * labels(6))
    for verdict in text.verdicts(metrics):
        assert not verdict.clear
        assert "too few films (6)" in verdict.sentence


def test_ten_films_are_enough_to_judge_a_split_and_a_genre():
    for films, few in ((9, ["Drama", "Comedy", "War"]), (10, ["Drama", "Comedy", "War"]), (30, [])):
        metrics = measure(labels(films), 0.1 + 0.8 * labels(films))
        assert ["too few films" in verdict.sentence for verdict in text.verdicts(metrics)] == [films < 10] * 2
        assert list(metrics["unjudged"]["genres"]) == few


def test_genres_with_few_films_or_none_in_training_are_not_judged_but_count():
    rare = np.tile([1, 1, 0], (60, 1))
    rare[:3, 2] = 1
    metrics = measure(rare, np.full((60, 3), 0.4), counts={"Drama": 5, "War": 8})
    assert metrics["unjudged"] == {
        "least_films": 10,
        "genres": {"Comedy": {"films": 60, "train_films": 0}, "War": {"films": 3, "train_films": 8}},
    }
    sentence = text.unjudged(metrics)
    assert "Comedy (60, none in training), War (3)" in sentence
    assert (
        "all 3 genres, mean average precision over the 3 that have films in this split. 1 of the 3 genres can be judged" in sentence
    )
    assert sentence in text.table(metrics)
    assert metrics["mean_average_precision"] == pytest.approx((1 + 1 + 3 / 60) / 3)
    assert text.unjudged(measure(labels(), labels())) == ""


def test_metrics_are_also_given_without_near_duplicates():
    scores = labels()
    scores[:6] = 1 - scores[:6]  # All wrong; all others are right.
    metrics = measure(labels(), scores, leaked=frozenset(map(str, range(6))))
    assert metrics["near_duplicates"]["films"] == 6
    assert metrics["near_duplicates"]["without"]["examples"] == 54
    assert metrics["near_duplicates"]["without"]["tuned"]["f1_micro"] == 1 > metrics["tuned"]["f1_micro"]
    assert "Without them, on 54 films: micro F1 1.000 [1.000, 1.000]," in text.table(metrics)


def test_a_lead_on_near_duplicates_alone_is_not_clear():
    # It knows the 30 films that leaked by heart, and gives the others what the better constant does.
    scores = np.tile([0.9, 0.9, 0.1], (60, 1))
    scores[:30] = 0.1 + 0.8 * labels(30)
    leaked = frozenset(map(str, range(30)))
    metrics = measure(labels(), scores, leaked=leaked)
    assert metrics["intervals"]["differences"]["tuned"]["always_top_2"]["f1_micro"][0] > 0
    assert metrics["near_duplicates"]["without"]["intervals"]["differences"]["tuned"]["always_top_2"]["f1_micro"] == [0, 0]
    for verdict in text.verdicts(metrics):
        assert not verdict.clear
        assert "on the 30 films without a near-duplicate in another split, the model has NOT been shown to beat" in verdict.sentence
    assert all(verdict.clear for verdict in text.verdicts(measure(labels(), scores)))


@pytest.mark.parametrize(
    ("leaked", "said"), [(54, "too few films without a near-duplicate in another split (6)"), (60, "every poster")]
)
def test_a_split_of_near_duplicates_cannot_be_judged(leaked, said):
    metrics = measure(labels(), labels(), leaked=frozenset(map(str, range(leaked))))
    for verdict in text.verdicts(metrics):
        assert not verdict.clear
        assert said in verdict.sentence


def test_the_text_says_which_data_set_it_is_and_whether_its_films_were_used_to_make_the_model():
    own = {split: measure(labels(), labels(), split=split) for split in ("train", "validation", "test")}
    assert {split: bool(text.caution(metrics)) for split, metrics in own.items()} == {
        "train": True,
        "validation": True,
        "test": False,
    }
    assert "trained on these films" in text.caution(own["train"])
    assert "best epoch were chosen on these films" in text.table(own["validation"])
    assert "test split of the job's own data set (0123456789ab), 60 films" in text.table(own["test"])
    assert own["test"]["data"] == {"fingerprint": "0123456789abcdef", "is_the_jobs": True}
    for split in own:
        other = measure(labels(), labels(), split=split, fingerprint="fedcba9876543210")
        table = text.table(other)
        assert f"{split} split of another data set (fedcba987654), 60 films" in table
        assert "come from another data set than the job's. It is not known whether the model was trained on some of them" in table
        assert "The model may have been trained on these posters" in table
        assert "on these films, so" not in table
        assert "prepare the data set again" not in table
        assert other["data"] == {"fingerprint": "fedcba9876543210", "is_the_jobs": False}


def test_a_calibrated_constant_without_skill_is_shown_beside_the_model():
    given = np.zeros((100, 3))
    given[:90, 0] = given[:20, 1] = given[:10, 2] = 1
    metrics = measure(given, np.full((100, 3), 0.5))
    constant = metrics["calibration"]["constant"]
    entropy = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (0.9, 0.2, 0.1)]
    assert constant == {
        "loss": pytest.approx(np.mean(entropy), rel=1e-6),
        "expected_calibration_error": pytest.approx(0, abs=1e-6),
    }
    lines = text.table(metrics).splitlines()
    (loss,) = [line for line in lines if line.startswith("loss  ")]
    assert f"(constant: {constant['loss']:.4f})" in loss
    (error,) = [line for line in lines if line.startswith("expected calibration error")]
    assert error.endswith("(constant: 0.000)")


def test_a_genre_that_cannot_be_judged_has_no_interval():
    rare = np.tile([1, 0, 0], (60, 1))
    rare[:30, 1] = rare[:3, 2] = 1
    metrics = measure(rare, np.random.default_rng(0).random((60, 3)))
    assert metrics["intervals"]["per_genre"]["War"]["average_precision"]
    lines = text.table(metrics).splitlines()
    rows = {
        line.split()[0]: line for line in lines[lines.index(next(line for line in lines if line.startswith("genre "))) + 1 :][:3]
    }
    assert {genre: "[" in row for genre, row in rows.items()} == {"Drama": True, "Comedy": True, "War": False}


@pytest.mark.parametrize(
    ("leaked", "said"),
    [
        (None, "Near-duplicates: not known"),
        (frozenset(), "Near-duplicates: none"),
        (frozenset({"elsewhere"}), "Near-duplicates: none"),
        (frozenset(map(str, range(60))), "all 60 films have posters"),
    ],
)
def test_the_text_says_whether_there_are_near_duplicates(leaked, said):
    assert said in text.table(measure(labels(), labels(), leaked=leaked))


def test_the_table_has_metrics_with_intervals_beside_the_baselines():
    scores = 0.3 + 0.4 * labels() * (np.arange(60) % 5 > 0)[:, None]
    metrics = measure(labels(), scores, temperature=1.5)
    lines = text.table(metrics).splitlines()
    low, high = metrics["intervals"]["at_0.5"]["f1_micro"]
    assert low < metrics["at_0.5"]["f1_micro"] < high
    (row,) = [line for line in lines if line.startswith("micro F1  ")]
    assert f"{metrics['at_0.5']['f1_micro']:.3f} [{low:.3f}, {high:.3f}]" in row
    assert any("always Drama and Comedy" in line and "model, threshold 0.5" in line for line in lines)
    (ranking,) = [line for line in lines if line.startswith("mean average precision  ")]
    assert ranking.endswith(f"(by chance: {metrics['mean_average_precision_by_chance']:.3f})")
    low, high = metrics["intervals"]["loss"]
    assert any(line.startswith("loss  ") and f"[{low:.4f}, {high:.4f}]" in line for line in lines)
    (lead,) = [line for line in lines if line.startswith("micro F1, lead over always Drama and Comedy")]
    assert f"{metrics['at_0.5']['f1_micro'] - metrics['baselines']['always_top_2']['f1_micro']:+.3f} [" in lead
    assert any("without the temperature of 1.5" in line for line in lines)
    genres = lines.index(next(line for line in lines if line.startswith("genre ")))
    assert [line.split()[0] for line in lines[genres + 1 : genres + 4]] == list(GENRES)


def test_values_and_differences_are_shown_with_their_intervals():
    assert text.format_value(None) == text.format_value(None, [0, 1]) == "–"
    assert text.format_value(0.12345) == "0.123"
    assert text.format_value(0.12345, [0.1, 0.2], decimals=4) == "0.1235 [0.1000, 0.2000]"
    assert text.format_difference(0.016, [-0.002, 0.034]) == "+0.016 [-0.002, +0.034]"


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
    metrics = measure(labels, scores, temperature=0.5)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert text.table(metrics).startswith("WARNING: ")
