"""How the chief evaluates and exports the best weights."""

import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.stage import CHIEF, LAST_STEP, RESULTS
from trainer.errors import LostPeer
from trainer.evaluation import evaluate
from trainer.job.history import Row
from trainer.model import export, networks
from trainer.training import checkpoints, run
from trainer.training.checkpoints import Progress


class Evaluation:
    """The chief's evaluation, in which each part notes that it was called."""

    def __init__(self, stage, monkeypatch):
        self.stage = stage
        self.found: dict[str, Any] = {}
        self.checks = 0
        self.lost_at = 0
        labels = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)
        logits = np.array([[4, -4, 4], [-4, 4, -4], [4, 4, -4]], np.float32) / 8

        def predictor(strategy, network, dataset, split, *, batch_size):
            self.found.setdefault("splits", []).append((network, split, batch_size))
            return types.SimpleNamespace(
                split=split,
                labels=labels,
                logits=lambda: logits,
                predictions=lambda logits, temperature: types.SimpleNamespace(logits=logits, temperature=temperature),
            )

        def evaluate_split(test, dataset, folder, **options):
            self.found["evaluated"] = (test.split, str(folder), options)
            return RESULTS

        def export_model(logits, folder, **options):
            self.found["exported"] = (logits("images"), folder, options)

        def build(job, **options):
            self.found["built"] = (tf.distribute.has_strategy(), options)
            return "network"

        monkeypatch.setattr(networks, "build", build)
        monkeypatch.setattr(networks, "logits", lambda network, images: (network, images))
        monkeypatch.setattr(checkpoints, "restore_best", lambda network, folder: self.found.update(restored=(network, str(folder))))
        monkeypatch.setattr(run, "SplitPredictor", predictor)
        monkeypatch.setattr(run, "tune_thresholds", lambda predictions: ("thresholds", predictions.temperature))
        monkeypatch.setattr(evaluate, "evaluate_split", evaluate_split)
        monkeypatch.setattr(export, "export", export_model)
        self.history: list[Row] = [{"epoch": 1, "val_mean_average_precision": 0.5}, {"epoch": 2, "val_mean_average_precision": 0.4}]
        progress = Progress()
        progress.history = self.history
        monkeypatch.setattr(checkpoints, "read_progress", lambda folder: progress)

    def check(self):
        self.checks += 1
        if self.checks == self.lost_at:
            raise LostPeer("taken")

    def run(self):
        directory = self.stage.directory()
        strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        owned = types.SimpleNamespace(check=self.check)
        return self.stage.evaluate(self.stage.job(), self.stage.dataset, directory, strategy, owned, batch_size=4)


@pytest.fixture
def evaluation(stage, monkeypatch):
    return Evaluation(stage, monkeypatch)


def test_the_best_weights_are_evaluated_on_the_test_split_and_exported(stage, evaluation, caplog):
    caplog.set_level("INFO", logger="trainer")
    assert evaluation.run() == RESULTS
    found = evaluation.found
    assert found["built"] == (True, {"genres": 3, "height": 16, "width": 16})
    assert found["restored"] == ("network", str(stage.folder))
    assert found["splits"] == [("network", "validation", 4), ("network", "test", 4)]
    split, folder, options = found["evaluated"]
    assert (split, folder, options["split"]) == ("test", f"{stage.folder}/evaluation", "test")
    # The labels are certain and the logits are not, so that the temperature is below 1.
    temperature = options["temperature"]
    assert 0 < temperature < 0.9
    assert options["thresholds"] == ("thresholds", temperature), "chosen with the temperature"
    assert options["config"] == stage.directory().description
    assert options["history"] == evaluation.history
    logits, folder, options = found["exported"]
    assert logits == ("network", "images")
    assert str(folder) == f"{stage.folder}/model"
    assert options == {"genres": stage.dataset.genres, "height": 16, "width": 16, "temperature": temperature}
    assert caplog.messages == ["evaluating the weights of epoch 1", "exporting the model"]


@pytest.mark.parametrize(("lost_at", "done"), [(1, set()), (2, {"evaluated"}), (3, {"evaluated", "exported"})])
def test_a_chief_that_loses_its_directory_writes_no_further_result(evaluation, lost_at, done):
    evaluation.lost_at = lost_at
    with pytest.raises(LostPeer, match=r"^taken$"):
        evaluation.run()
    assert evaluation.found.keys() & {"evaluated", "exported"} == done


def test_as_many_films_are_evaluated_at_a_time_as_a_worker_trains_on(stage):
    stage.step = LAST_STEP
    stage.run(CHIEF)
    assert stage.options["_evaluate_and_export"][1] == {"batch_size": 4}
