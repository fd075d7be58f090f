"""The loss, the metrics and the learning rate agree with their definitions."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss, precision_score, recall_score

from trainer.config import TrainConfig
from trainer.model import objective

LABELS = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 1]], np.float32)
LOGITS = np.array([[2, -1, 0.5], [-3, 1, 1], [0.1, 2, -2], [-1, 3, 4]], np.float32)
COUNTS = {"Action": 10, "Comedy": 40, "Drama": 80}


def config(**changes):
    return TrainConfig(data_dir="d", job_dir="j", **changes)


def test_the_loss_is_binary_cross_entropy():
    scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    assert float(objective.GenreLoss()(LABELS, LOGITS)) == pytest.approx(log_loss(LABELS.ravel(), scores.ravel()), rel=1e-5)


def test_the_loss_is_linear_in_the_label():
    ends = [float(objective.GenreLoss()(np.full_like(LOGITS, label), LOGITS)) for label in (0, 1)]
    assert float(objective.GenreLoss()(np.full_like(LOGITS, 0.25), LOGITS)) == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_no_other_constant_has_a_lower_loss():
    labels = np.arange(100)[:, np.newaxis] < list(COUNTS.values())
    constant = objective.best_constant(COUNTS, 100)

    def value(logits):
        return float(objective.GenreLoss()(labels.astype(np.float32), np.tile(logits.astype(np.float32), (100, 1))))

    for genre in np.eye(3):
        assert value(constant) < min(value(constant + 0.1 * genre), value(constant - 0.1 * genre))


def test_the_best_constant_is_finite_for_a_genre_of_no_film_and_of_all_films():
    assert np.isfinite(objective.best_constant({"News": 0, "Drama": 100}, 100)).all()


def test_training_metrics_take_logits():
    results = {}
    for metric in objective.training_metrics():
        metric.update_state(LABELS[:2], LOGITS[:2])
        metric.update_state(LABELS[2:], LOGITS[2:])
        results[metric.name] = float(metric.result())
    predicted = LOGITS > 0
    assert results["precision"] == pytest.approx(precision_score(LABELS, predicted, average="micro"))
    assert results["recall"] == pytest.approx(recall_score(LABELS, predicted, average="micro"))
    assert results["accuracy"] == pytest.approx(np.mean(LOGITS.argmax(1) == LABELS.argmax(1)))


@pytest.mark.parametrize("schedule", ["constant", "step", "exponential", "cosine"])
def test_rates_rise_during_warm_up_and_never_after(schedule):
    rate = objective.learning_rate(config(schedule=schedule, epochs=10, warmup_epochs=2, learning_rate=0.1), steps_per_epoch=50)
    rates = [rate(step) for step in range(500)]
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[100:]) <= 0)
    assert rates[100] == pytest.approx(0.1)
    assert min(rates) > 0


def test_schedules_end_at_their_final_rates():
    def last(schedule):
        return objective.learning_rate(
            config(schedule=schedule, epochs=10, warmup_epochs=0, learning_rate=1.0), steps_per_epoch=100
        )(999)

    assert last("constant") == 1
    assert last("step") == pytest.approx(0.01)
    assert last("exponential") == pytest.approx(0.01, rel=0.01)
    assert last("cosine") == pytest.approx(0, abs=1e-5)


def test_warm_up_longer_than_the_job_still_ends():
    rate = objective.learning_rate(config(epochs=1, warmup_epochs=5), steps_per_epoch=4)
    assert all(0 < rate(step) <= 1e-3 for step in range(4))


def test_weight_decay_spares_biases_and_scales():
    optimizer = objective.optimizer(config(optimizer="adamw", weight_decay=0.5, learning_rate=1.0))
    kernel, bias, gamma = (tf.Variable([1.0], name=name) for name in ("dense/kernel", "dense/bias", "norm/gamma"))
    optimizer.apply_gradients([(tf.zeros(1), variable) for variable in (kernel, bias, gamma)])
    assert kernel.numpy() == pytest.approx(0.5)
    assert (bias.numpy(), gamma.numpy()) == (1.0, 1.0)
