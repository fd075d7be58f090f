"""The charts and the poster grid: what they show, and that nothing is cut off or differs between runs."""

import io
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tests.support import golden_images
from trainer.evaluation.metrics.metrics import compute_metrics
from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.metrics.thresholds import tune_thresholds
from trainer.evaluation.report import charts, examples, extremes, style

HISTORY = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.001,
        "loss": 1 / epoch,
        "val_loss": loss,
        "val_mean_average_precision": rating,
    }
    for epoch, loss, rating in ((1, 0.9, 0.2), (2, 0.8, 0.4), (3, 0.7, 0.4), (4, 0.6, 0.3))
]


def make(*, films=40, genres=("Drama", "Comedy", "War"), seed=0):
    random = np.random.default_rng(seed)
    labels = random.random((films, len(genres))) < 0.4
    scores = (0.3 * labels + 0.7 * random.random(labels.shape)).astype(np.float32)
    predictions = Predictions(tuple(f"film{row}" for row in range(films)), tuple(genres), labels, scores)
    return predictions, measure(predictions, tune_thresholds(predictions))


def measure(predictions, thresholds, *, temperature=1.5):
    train = {"examples": 10, "genre_counts": dict.fromkeys(predictions.genres, 5)}
    return compute_metrics_json(
        predictions,
        split="test",
        fingerprint="f1",
        trained_on={"fingerprint": "f1", "train": train},
        thresholds=thresholds,
        temperature=temperature,
    )


def draw_all(predictions, metrics):
    random = np.random.default_rng(1)
    images = {film: random.integers(0, 255, (48, 32, 3), np.uint8) for film in predictions.ids}
    sample = {film: images[film] for film in predictions.ids[:8]}
    return {
        "loss": charts.training_history(HISTORY),
        "confusion": charts.confusion_matrix(predictions, metrics),
        "outcomes": charts.outcomes(metrics),
        "pr_curves": charts.pr_curves(predictions, metrics),
        "frequencies": charts.frequencies(metrics, {"Drama": 7}, 10),
        "posters": examples.posters_chart(predictions, metrics, sample),
        "extremes": extremes.extremes_chart(predictions, metrics, images),
        "calibration": charts.calibration(metrics),
    }


def assert_nothing_touches_the_border(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()


def texts(figure):
    """Returns every text in the figure."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize(
    "genres",
    [["one genre"], [f"genre {g}" for g in range(14)], ["of a length never seen " * 3, "$x^{$", "<b>", "naïve"]],
    ids=["one", "many", "odd"],
)
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_charts_of_any_genres_are_not_cut_off(genres):
    for figure in draw_all(*make(genres=genres)).values():
        assert_nothing_touches_the_border(style.png(figure))


def test_charts_of_one_film_without_any_prediction_can_be_drawn():
    predictions = Predictions(("a",), ("Drama", "War"), np.array([[True, False]]), np.zeros((1, 2), np.float32))
    metrics = measure(predictions, {"Drama": 0.5, "War": 0.5}, temperature=1.0)
    for figure in draw_all(predictions, metrics).values():
        assert_nothing_touches_the_border(style.png(figure))


def test_a_users_own_matplotlib_settings_change_nothing(monkeypatch):
    before = style.png(charts.outcomes(make()[1]))
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 25.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    assert style.png(charts.outcomes(make()[1])) == before
    assert matplotlib.rcParams["font.size"] == 25.0


def test_the_history_has_a_panel_a_metric_and_marks_the_best_epoch():
    figure = charts.training_history(HISTORY)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Loss", "Mean average precision", "Learning rate"]
    train, validation, best = panels["Loss"].lines
    np.testing.assert_array_equal(train.get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_array_equal(validation.get_ydata(), [0.9, 0.8, 0.7, 0.6])
    assert train.get_marker() != validation.get_marker()
    np.testing.assert_array_equal(best.get_xdata(), [2, 2])
    assert "best epoch (2)" in texts(figure)


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_one_epoch_and_undefined_metrics_can_be_drawn():
    one = charts.training_history(HISTORY[:1])
    assert_nothing_touches_the_border(style.png(one))
    holes: list[dict[str, float | None]] = [{**HISTORY[0]}, {**HISTORY[1], "loss": math.nan, "val_loss": None, "val_roc_auc": None}]
    assert len(charts.training_history(holes).axes) == len(one.axes)


def test_the_confusion_matrix_shows_its_counts_and_the_row_and_column_without_genres():
    labels = np.array([[1, 0]] * 3 + [[0, 1]] * 2, bool)
    scores = np.array([[0.9, 0.1]] * 2 + [[0.1, 0.2]] + [[0.9, 0.1]] * 2, np.float32)
    predictions = Predictions(tuple("abcde"), ("Drama", "War"), labels, scores)
    metrics = compute_metrics(predictions, split="test", thresholds={"Drama": 0.5, "War": 0.5}, train_genre_counts={})
    axes = charts.confusion_matrix(predictions, metrics).axes[0]
    cells = {tuple(map(int, reversed(text.get_position()))): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "2", (0, 2): "1", (1, 0): "2"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Drama", "War", "(none)"]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, np.array([[2 / 3, 0, 1 / 3], [1, 0, 0], [0, 0, 0]]))


def test_the_most_common_genre_is_first():
    _, metrics = make(genres=["rare", "common"])
    metrics["per_genre"]["common"]["support"] = 30
    metrics["per_genre"]["rare"]["support"] = 3
    labels = charts.frequencies(metrics, {}, 0).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["common", "rare"]


def test_a_genre_without_films_says_so_instead_of_a_curve():
    predictions = Predictions(("a",), ("Drama", "War"), np.array([[True, False]]), np.full((1, 2), 0.7, np.float32))
    metrics = compute_metrics(predictions, split="test", thresholds={"Drama": 0.5, "War": 0.5}, train_genre_counts={})
    assert "no film here\nhas this genre" in texts(charts.pr_curves(predictions, metrics))


def test_posters_show_hits_additions_and_misses_by_symbol_and_type():
    labels, scores = np.array([[1, 0, 1, 0]], bool), np.array([[0.9, 0.8, 0.2, 0.1]], np.float32)
    predictions = Predictions(("a $film$",), ("Drama", "Comedy", "War", "News"), labels, scores)
    metrics = compute_metrics(
        predictions,
        split="test",
        thresholds=dict.fromkeys(predictions.genres, 0.5),
        train_genre_counts={},
    )
    figure = examples.posters_chart(predictions, metrics, {"a $film$": np.zeros((6, 4, 3), np.uint8)})
    hit, added, missed = figure.axes[0].texts
    assert (hit.get_text(), hit.get_fontweight(), hit.get_fontstyle()) == ("✓ Drama 0.90", "bold", "normal")
    assert (added.get_text(), added.get_fontweight(), added.get_fontstyle()) == ("+ Comedy 0.80", "normal", "italic")
    assert (missed.get_text(), missed.get_fontweight(), missed.get_fontstyle()) == ("− War 0.20", "normal", "normal")
    assert "a $film$" in texts(figure)


def test_a_genre_written_from_the_right_stands_between_its_symbol_and_its_score():
    predictions = Predictions(("a",), ("دراما",), np.array([[True]]), np.array([[0.9]], np.float32))
    metrics = compute_metrics(predictions, split="test", thresholds={"دراما": 0.5}, train_genre_counts={})
    figure = examples.posters_chart(predictions, metrics, {"a": np.zeros((6, 4, 3), np.uint8)})
    assert figure.axes[0].texts[0].get_text() == "✓ \u200eدراما\u200e 0.90"


def test_a_poster_with_many_genres_says_how_many_it_leaves_out():
    genres = tuple(f"genre {g}" for g in range(12))
    predictions = Predictions(("a",), genres, np.ones((1, 12), bool), np.full((1, 12), 0.9, np.float32))
    metrics = compute_metrics(predictions, split="test", thresholds=dict.fromkeys(genres, 0.5), train_genre_counts={})
    figure = examples.posters_chart(predictions, metrics, {"a": np.zeros((6, 4, 3), np.uint8)})
    assert len(figure.axes[0].texts) == 8
    assert "… and 5 more" in texts(figure)


def test_examples_depend_on_the_ids_alone():
    predictions, _ = make(films=50)
    picked = [predictions.ids[row] for row in examples.pick_examples(predictions, 10)]
    backwards = Predictions(predictions.ids[::-1], predictions.genres, ~predictions.labels, np.zeros_like(predictions.scores))
    assert [backwards.ids[row] for row in examples.pick_examples(backwards, 10)] == picked
    assert len(set(picked)) == 10
    assert picked != list(predictions.ids[:10])
    assert sorted(examples.pick_examples(predictions, 99)) == list(range(50))


def test_the_extremes_of_a_genre_are_the_highest_scores_and_the_worst_mistakes():
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4], [0.3]], np.float32)
    labels = np.array([[1], [0], [1], [0], [0], [1], [1]], bool)
    predictions = Predictions(tuple("abcdefg"), ("Drama",), labels, scores)
    metrics = measure(predictions, {"Drama": 0.5})
    (drama,) = extremes.pick_extremes(predictions, metrics)
    assert drama.surest == (0, 1, 2, 3)
    assert drama.added == (1, 3)
    assert drama.missed == (6, 5)
    figure = extremes.extremes_chart(predictions, metrics, {film: np.zeros((6, 4, 3), np.uint8) for film in predictions.ids})
    marks = [shown for shown in texts(figure) if shown[:1] in "✓✗" and shown[2:3] == "0"]
    assert marks == ["✓ 0.90", "✗ 0.80", "✓ 0.70", "✗ 0.60", "✗ 0.80", "✗ 0.60", "✓ 0.30", "✓ 0.40"]


@pytest.mark.parametrize("has_it", [False, True])
def test_a_genre_that_no_film_has_or_every_film_has_shows_what_there_is(has_it):
    predictions = Predictions(("a", "b"), ("Drama",), np.full((2, 1), has_it), np.array([[0.2], [0.3]], np.float32))
    metrics = measure(predictions, {"Drama": 0.5})
    (drama,) = extremes.pick_extremes(predictions, metrics)
    assert (drama.surest, drama.added, drama.missed) == ((1, 0), *(((), (0, 1)) if has_it else ((1, 0), ())))
    figure = extremes.extremes_chart(predictions, metrics, {film: np.zeros((6, 4, 3), np.uint8) for film in predictions.ids})
    assert texts(figure).count("no such film") == 1


def test_the_extremes_chart_shows_only_the_most_common_genres():
    predictions, metrics = make(genres=[f"genre {g}" for g in range(20)])
    supports = [metrics["per_genre"][found.genre]["support"] for found in extremes.pick_extremes(predictions, metrics)]
    assert supports == sorted((own["support"] for own in metrics["per_genre"].values()), reverse=True)[:12]


def test_the_calibration_chart_has_a_mark_for_each_bin_with_decisions_and_every_count():
    predictions, metrics = make()
    figure = charts.calibration(metrics)
    share, count = figure.axes
    _, after, before = share.lines
    assert after.get_marker() != before.get_marker()
    bins = metrics["calibration"]["after"]["bins"]
    np.testing.assert_array_equal(after.get_ydata(), [cell["actual"] for cell in bins if cell["decisions"]])
    assert [text.get_text() for text in count.texts] == [str(cell["decisions"]) for cell in bins]
    cold = charts.calibration(measure(predictions, dict.fromkeys(predictions.genres, 0.5), temperature=1.0))
    assert len(cold.axes[0].lines) == 2, "without a temperature there is nothing to compare with"
    (legend_of_three,), (legend_of_two,) = figure.legends, cold.legends
    columns = [vars(legend)["_ncols"] for legend in (legend_of_three, legend_of_two)]
    assert columns == [1, 2], "the legend is no wider than the chart"


@pytest.fixture(name="drawn_now", scope="module")
def fixture_drawn_now():
    return golden_images.draw_charts()


@pytest.mark.parametrize(
    "name",
    ["training_history", "confusion_matrix", "outcomes", "pr_curves", "frequencies", "calibration", "posters", "extremes"],
)
def test_a_chart_looks_as_before(name, drawn_now):
    assert not golden_images.difference(f"chart-{name}", drawn_now[f"chart-{name}"]), "see tests/support/golden_images.py"
