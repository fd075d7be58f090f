"""The evaluation/ folder: its files are exact, and its page is complete, safe and needs no network."""

import csv
import html.parser
import io
import json
import re

import numpy as np
import pytest
from etils import epath
from matplotlib.text import Text

from tests.support import tiny_fonts
from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.metrics.predictions import Predictions
from trainer.evaluation.metrics.thresholds import tune_thresholds
from trainer.evaluation.report import page as report
from trainer.evaluation.report import style, text
from trainer.process import heartbeat
from trainer.storage import files

HISTORY = [{"epoch": 1, "step": 12345, "learning_rate": 1e-3, "loss": 0.5, "val_mean_average_precision": None}]


def measure(predictions, thresholds, *, split="test", fingerprint="f1", **options):
    train = {"examples": 20, "genre_counts": dict.fromkeys(predictions.genres, 5)}
    return compute_metrics_json(
        predictions,
        split=split,
        fingerprint=fingerprint,
        trained_on={"fingerprint": "f1", "train": train},
        thresholds=thresholds,
        temperature=1.25,
        **options,
    )


def make(*, films=12, genres=("Drama", "Comedy", "War"), ids=None, **options):
    random = np.random.default_rng(3)
    labels = random.random((films, len(genres))) < 0.4
    scores = random.random(labels.shape).astype(np.float32)
    ids = ids or tuple(f"film{films - row:02}" for row in range(films))
    predictions = Predictions(tuple(ids), tuple(genres), labels, scores)
    return predictions, measure(predictions, tune_thresholds(predictions), **{"leaked": frozenset()} | options)


def write(folder, *, made=None, history=HISTORY, config=None, posters=3):
    predictions, metrics = made or make()
    report.write_report(
        epath.Path(folder),
        metrics=metrics,
        predictions=predictions,
        history=history,
        config={"model": "resnet", "seed": 0} if config is None else config,
        sample=predictions.ids[:posters],
        images={film: np.full((24, 16, 3), 90, np.uint8) for film in predictions.ids},
        train_genre_counts=dict.fromkeys(predictions.genres, 5),
        train_examples=20,
    )
    return (folder / "report.html").read_text()


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "new" / "evaluation"
    write(folder)
    return folder


@pytest.fixture(name="page", scope="module")
def fixture_page(folder):
    return (folder / "report.html").read_text()


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the drawing, which takes a second, where a test looks at the text alone."""
    monkeypatch.setattr(report.style, "png", lambda figure: b"not drawn")


def test_the_folder_holds_everything(folder, page):
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json",
        "predictions.csv",
        "loss.png",
        "confusion_matrix.png",
        "outcomes.png",
        "calibration.png",
        "pr_curves.png",
        "extremes.png",
        "posters.png",
        "frequencies.png",
        "report.html",
    }
    assert page.count('src="data:image/png;base64,') == 8
    assert json.loads((folder / "metrics.json").read_text()) == make()[1]


def test_equal_arguments_give_equal_bytes_without_the_drawing_programs_name(folder, tmp_path):
    write(tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
        assert b"atplotlib" not in path.read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_the_page_is_written_last_and_the_guard_hears_of_each_file(tmp_path, monkeypatch):
    steps, made = [], make()
    writing = files.write

    def write_file(path, content):
        steps.append(path.name)
        writing(path, content)

    monkeypatch.setattr(files, "write", write_file)
    monkeypatch.setattr(heartbeat, "beat", lambda: steps.append("beat"))
    write(tmp_path, made=made, posters=0)
    pngs = ["loss.png", "outcomes.png", "calibration.png", "pr_curves.png", "confusion_matrix.png", "frequencies.png"]
    with_beats = [step for name in pngs for step in (name, "beat")]
    assert steps == ["beat", "metrics.json", "predictions.csv", *with_beats, "report.html"]


@pytest.mark.usefixtures("undrawn")
def test_without_a_history_or_posters_their_parts_are_left_out_and_old_ones_go(tmp_path):
    for name in ("loss.png", "posters.png", "extremes.png"):
        (tmp_path / name).write_bytes(b"of an earlier evaluation")
    page = write(tmp_path, history=[], config={}, posters=0)
    assert not (tmp_path / "loss.png").exists()
    assert not (tmp_path / "posters.png").exists()
    assert not (tmp_path / "extremes.png").exists()
    for anchor in ("training", "posters", "extremes", "settings"):
        assert f'href="#{anchor}"' not in page
        assert f'id="{anchor}"' not in page


def test_one_line_names_the_characters_that_no_font_has_and_ordinary_names_need_none(tmp_path, monkeypatch, caplog, undrawn):
    tiny_fonts.only_matplotlibs(monkeypatch)
    caplog.set_level("INFO", logger="trainer")
    write(tmp_path)
    assert caplog.messages == []
    write(tmp_path, made=make(films=2, genres=("动", "Drama"), ids=("tt1", "作")))
    (said,) = caplog.messages
    assert said.startswith("no font of this system has the characters 作动 (Chinese): the charts show boxes instead")


def test_the_charts_are_drawn_with_the_fonts_that_the_genres_need(tmp_path, monkeypatch):
    tiny_fonts.only_matplotlibs(monkeypatch)
    tiny_fonts.install(tmp_path, "Charts Sans", "动作")
    drawn = []

    @style.styled
    def png(figure):
        drawn.append({text.get_fontfamily()[-1] for text in [*figure.findobj(Text), Text()]})
        return b""

    monkeypatch.setattr(style, "png", png)
    write(tmp_path, made=make(films=1, genres=("动作",)))
    assert drawn == [{"Charts Sans"}] * 8


def test_the_page_refers_to_nothing_outside_itself(folder, page):
    page = re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//\w|<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|url\(", page)
    assert str(folder) not in page
    anchors = re.findall(r'href="#(\w+)"', page)
    assert anchors
    assert set(anchors) <= set(re.findall(r'id="(\w+)"', page))


@pytest.mark.usefixtures("undrawn")
def test_names_in_the_page_are_escaped(tmp_path):
    nasty = "<script>alert('x')</script>"
    made = make(genres=(nasty, 'a" onload="x', "War"), ids=[f"{nasty}{row}" for row in range(12)])
    page = write(tmp_path, made=made, config={nasty: nasty})
    assert "<script" not in page
    assert 'onload="' not in page
    # Settings, verdicts, baselines, the genres with too few films, a genre's row, the posters' ids.
    assert page.count("&lt;script&gt;alert(") == 2 + 2 + 2 + 1 + 2 + 3


class Outline(html.parser.HTMLParser):
    """Collects tags, and checks that every tag is closed where it must be."""

    VOID = ("meta", "link", "img", "br", "col")

    def __init__(self):
        super().__init__()
        self.open, self.images = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_every_image_has_an_alternative_text(page):
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.images) == 8
    assert all(len(image["alt"]) > 40 for image in outline.images)


def test_the_page_holds_the_metrics_with_their_intervals(page):
    _, metrics = make()
    for point in ("at_0.5", "tuned"):
        low, high = metrics["intervals"][point]["f1_micro"]
        assert f"<td>{metrics[point]['f1_micro']:.3f}<small>[{low:.3f}, {high:.3f}]</small></td>" in page
    low, high = metrics["intervals"]["mean_average_precision"]
    assert f"{metrics['mean_average_precision']:.3f}<small>[{low:.3f}, {high:.3f}]</small>" in page
    assert f"by chance {metrics['mean_average_precision_by_chance']:.3f}" in page
    assert f"(constant {metrics['calibration']['constant']['loss']:.4f})" in page
    assert f"(constant {metrics['calibration']['constant']['expected_calibration_error']:.3f})" in page
    assert "a temperature of 1.25" in page
    assert "<td>12345</td>" in page
    assert "resnet" in page


@pytest.mark.usefixtures("undrawn")
def test_the_training_table_shows_whole_numbers_as_such_and_what_is_undefined_as_a_dash(tmp_path):
    rows = [
        {"epoch": 1, "step": 10, "loss": 0.123456, "val_loss": float("nan"), "val_mean_average_precision": 0.25},
        {"epoch": 2, "step": 20, "loss": 1.0, "val_mean_average_precision": 0.5},
    ]
    page = write(tmp_path, history=rows, posters=0)
    assert '<th scope="row">1</th><td>10</td><td>0.1235</td><td>–</td><td>0.25</td>' in page
    assert '<th scope="row">2</th><td>20</td><td>1</td><td>–</td><td>0.5</td>' in page
    assert "the best epoch is 2." in page


@pytest.mark.usefixtures("undrawn")
def test_a_warning_stands_before_everything_and_only_where_it_is_due(page, tmp_path):
    verdicts = text.verdicts(make()[1])
    assert not any(verdict.clear for verdict in verdicts)
    assert page.count("WARNING.") == 2
    top = page[page.index("</h1>") : page.index("<nav")]
    assert all(verdict.sentence in html.unescape(top) for verdict in verdicts)

    sure = make(films=60)[0]
    sure = Predictions(sure.ids, sure.genres, sure.labels, np.where(sure.labels, 0.9, 0.1).astype(np.float32))
    page = write(tmp_path, made=(sure, measure(sure, dict.fromkeys(sure.genres, 0.5))), posters=0)
    assert "WARNING" not in page
    assert "the model is clearly better than" in page


@pytest.mark.usefixtures("undrawn")
def test_genres_with_too_few_films_are_grey_and_named_and_have_no_interval(page, tmp_path):
    _, metrics = make()
    few = metrics["unjudged"]["genres"]
    assert page.count('<tr class="few">') == len(few) == 2
    for genre, own in metrics["per_genre"].items():
        shown = f">{genre}</th><td>{own['support']}</td><td>{own['average_precision']:.3f}"
        assert f"{shown}{'</td>' if genre in few else '<small>['}" in page
    assert page.count("Too few films to judge") == 1
    assert "Too few films to judge" not in write(tmp_path, made=make(films=80), posters=0)


@pytest.mark.usefixtures("undrawn")
def test_the_page_claims_nothing_about_the_job_for_films_of_another_data_set(page, tmp_path):
    assert "the test split of the job&#39;s own data set (f1)" in page
    assert "Be careful" not in page
    assert "The films of this report were not used to choose them" in page
    other = write(tmp_path, made=make(fingerprint="f2", leaked=None), posters=0, history=[])
    assert "the test split of another data set (f2)" in other
    assert "Be careful" in other
    assert "were not used to choose them" not in other


def test_predictions_are_sorted_by_id_and_bring_every_score_back_exactly():
    scores = np.random.default_rng(0).random((500, 3)).astype(np.float32) ** 8
    scores[0] = [0, 1, 0.5]
    scores[1] = np.nextafter(np.array([0.5, 0.1, 1e-30], np.float32), np.float32(1))
    scores[2] = [1e-38, 1e-45, 0.1]
    ids = tuple(f"film,{(7 * row) % 500}" for row in range(500))
    predictions = Predictions(ids, ("Drama", "Comedy", "War"), scores > 0.2, scores)
    content = report.predictions_csv(predictions, {"Drama": 0.1, "Comedy": 0.9, "War": 0.5})
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert list(rows[0]) == [
        "id",
        "actual",
        "predicted_0.5",
        "predicted_tuned",
        "score:Drama",
        "score:Comedy",
        "score:War",
    ]
    assert [row["id"] for row in rows] == sorted(ids)
    row_of = {film: row for row, film in enumerate(ids)}
    for row in rows:
        back = np.array([row[f"score:{genre}"] for genre in predictions.genres]).astype(np.float32)
        np.testing.assert_array_equal(back, scores[row_of[row["id"]]])


def test_predictions_name_the_genres_in_the_data_sets_order():
    predictions = Predictions(
        ("a", "b"),
        ("War", "Comedy", "Drama"),
        np.array([[1, 0, 1], [0, 0, 0]], bool),
        np.array([[0.4, 0.5, 0.6], [0.1, 0.2, 0.3]], np.float32),
    )
    content = report.predictions_csv(predictions, {"War": 0.3, "Comedy": 0.7, "Drama": 0.25}).decode()
    assert content.splitlines()[1:] == [
        "a,War|Drama,Comedy|Drama,War|Drama,0.400000006,0.5,0.600000024",
        "b,,,Drama,0.100000001,0.200000003,0.300000012",
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_metric_that_json_cannot_hold_is_refused_before_the_page_is_written(tmp_path):
    predictions, metrics = make()
    metrics["loss"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, made=(predictions, metrics))
    assert list(tmp_path.iterdir()) == []
