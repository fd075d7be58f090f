"""Evaluation after an epoch, and on a split with its report."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from tests.support import drawn
from tests.support.drawn import FilmNumber
from trainer.dataset import near_duplicates
from trainer.evaluation import evaluate
from trainer.evaluation.metrics import intervals
from trainer.evaluation.metrics.metrics import compute_metrics
from trainer.evaluation.metrics.metrics_json import compute_metrics_json
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import examples, extremes, page
from trainer.model.objective import GenreLoss

THRESHOLDS = {"Action": 0.55, "Comedy": 0.5, "Drama": 0.6}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """12 films for training, 9 for validation and 70 for testing: more than the report shows posters."""
    made = drawn.dataset(tmp_path_factory.mktemp("data"), train=12, validation=9, test=70, shard_count=2)
    found = [near_duplicates.NearDuplicate(drawn.film_id(film), "test", drawn.film_id(0), "train", 3) for film in (30, 31)]
    near_duplicates.write(found, Path(made.path) / near_duplicates.FILE)
    return made


def predictor(dataset, split, *, gain=0.01):
    network = FilmNumber()
    network.gain.assign(gain)
    return SplitPredictor(tf.distribute.OneDeviceStrategy("/cpu:0"), network, dataset, split, batch_size=32)


def trained_on(dataset, *, fingerprint=None):
    train = dataset.split("train")
    return {
        "fingerprint": fingerprint or dataset.fingerprint,
        "train": {"examples": train.examples, "genre_counts": dict(train.genre_counts)},
    }


def test_the_metrics_of_an_epoch_are_those_at_threshold_one_half_and_the_loss_that_training_minimises(dataset):
    validation = predictor(dataset, "validation")
    logits = validation.logits()
    given = validation.predictions(logits)
    expected = compute_metrics(given, split="validation", thresholds=dict.fromkeys(given.genres, 0.5), train_genre_counts={})
    found = evaluate.epoch_metrics(validation, GenreLoss())
    likelihoods = np.where(given.labels, given.scores, 1 - given.scores)
    assert found.pop("loss") == pytest.approx(-np.log(likelihoods).mean(), rel=1e-5)
    assert found == {
        "accuracy": expected["accuracy"],
        **{key: expected["at_0.5"][key] for key in ("precision", "recall", "f1_micro", "f1_macro")},
        "mean_average_precision": expected["mean_average_precision"],
        "roc_auc": expected["roc_auc"],
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def evaluated(dataset, *, fingerprint=None):
    """Returns the metrics, and the arguments of the report, which is not drawn."""
    report: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 20)  # A thousand take a second.
        patch.setattr(page, "write_report", lambda output, **options: report.update(options, output=output))
        metrics = evaluate.evaluate_split(
            predictor(dataset, "test"),
            dataset,
            epath.Path("folder"),
            split="test",
            thresholds=THRESHOLDS,
            temperature=1.5,
            config={"model": "cnn", "data": trained_on(dataset, fingerprint=fingerprint)},
            history=[{"epoch": 1}],
        )
    return metrics, report


@pytest.fixture(scope="module")
def own(dataset):
    return evaluated(dataset)


def test_the_report_is_of_the_splits_predictions_at_the_jobs_temperature_and_thresholds(dataset, own, monkeypatch):
    metrics, report = own
    test = predictor(dataset, "test")
    given = test.predictions(test.logits(), 1.5)
    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    assert metrics == compute_metrics_json(
        given,
        split="test",
        fingerprint=dataset.fingerprint,
        trained_on=trained_on(dataset),
        thresholds=THRESHOLDS,
        temperature=1.5,
        leaked=frozenset({drawn.film_id(30), drawn.film_id(31)}),
    )
    assert metrics["near_duplicates"]["films"] == 2
    np.testing.assert_array_equal(report["predictions"].scores, given.scores)
    assert report["output"] == epath.Path("folder")
    assert report["metrics"] == metrics
    assert report["history"] == [{"epoch": 1}]
    assert report["config"]["model"] == "cnn"
    assert (report["train_examples"], report["train_genre_counts"]) == (12, dataset.split("train").genre_counts)


def test_the_report_has_a_sample_of_30_posters_and_those_of_the_extremes(own):
    metrics, report = own
    given = report["predictions"]
    sample = [given.ids[row] for row in examples.pick_examples(given, 30)]
    assert report["sample"] == sample
    assert len(sample) == 30
    extreme = {given.ids[row] for genre in extremes.pick_extremes(given, metrics) for row in genre.rows}
    assert extreme - set(sample)
    assert set(report["images"]) == {*sample, *extreme}
    for film, image in report["images"].items():
        assert drawn.film_id(drawn.film_of(image)) == film


def test_near_duplicates_are_not_known_for_a_data_set_that_the_job_was_not_trained_on(dataset):
    metrics, report = evaluated(dataset, fingerprint="of another data set")
    assert report["metrics"]["near_duplicates"] is None
    assert not metrics["data"]["is_the_jobs"]
