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


def test_each_film_has_its_own_loss_which_is_the_mean_over_genres():
    scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    losses = -np.log(np.where(LABELS == 1, scores, 1 - scores)).mean(axis=1)
    np.testing.assert_allclose(objective.GenreLoss().call(tf.constant(LABELS), tf.constant(LOGITS)), losses, rtol=1e-5)


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


def test_the_best_constant_is_the_share_of_films_with_half_a_film_more_on_each_side():
    found = objective.best_constant({"Drama": 30, "War": 5}, 39)
    np.testing.assert_allclose(found, np.log([30.5 / 9.5, 5.5 / 34.5]), rtol=1e-6)
    assert found.dtype == np.float32


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


def test_training_metrics_leave_out_films_of_no_weight():
    for metric in objective.training_metrics():
        metric.update_state(LABELS, LOGITS, sample_weight=np.array([0, 1, 1, 0], np.float32))
        weighted = float(metric.result())
        metric.reset_state()
        metric.update_state(LABELS[1:3], LOGITS[1:3])
        assert weighted == pytest.approx(float(metric.result())), metric.name


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


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1, 19: 1, 20: 1, 39: 1}),
        ("step", {0: 1, 19: 1, 20: 0.1, 29: 0.1, 30: 0.01, 39: 0.01}),
        ("exponential", {0: 1, 10: 0.01**0.25, 20: 0.1, 30: 0.01**0.75}),
        ("cosine", {0: 1, 10: (1 + 0.5**0.5) / 2, 20: 0.5, 30: (1 - 0.5**0.5) / 2}),
    ],
)
def test_a_schedule_falls_as_its_flag_says(schedule, expected):
    rate = objective.learning_rate(config(schedule=schedule, epochs=4, warmup_epochs=0, learning_rate=2.0), steps_per_epoch=10)
    assert {step: rate(step) for step in expected} == pytest.approx({step: 2 * share for step, share in expected.items()})


def test_warm_up_rises_in_equal_steps_and_the_schedule_begins_after_it():
    rate = objective.learning_rate(config(schedule="cosine", epochs=3, warmup_epochs=1, learning_rate=1.0), steps_per_epoch=4)
    assert [rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rate(8) == pytest.approx(0.5), "half of the rest is done"
    half = objective.learning_rate(config(schedule="constant", warmup_epochs=0.5, learning_rate=1.0), steps_per_epoch=4)
    assert [half(step) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_warm_up_longer_than_the_job_still_ends():
    rate = objective.learning_rate(config(epochs=1, warmup_epochs=5), steps_per_epoch=4)
    assert [rate(step) for step in range(4)] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])


def test_weight_decay_spares_biases_and_scales():
    optimizer = objective.optimizer(config(optimizer="adamw", weight_decay=0.5, learning_rate=1.0))
    kernel, bias, gamma = (tf.Variable([1.0], name=name) for name in ("dense/kernel", "dense/bias", "norm/gamma"))
    optimizer.apply_gradients([(tf.zeros(1), variable) for variable in (kernel, bias, gamma)])
    assert kernel.numpy() == pytest.approx(0.5)
    assert (bias.numpy(), gamma.numpy()) == (1.0, 1.0)


def test_adam_has_no_weight_decay():
    optimizer = objective.optimizer(config(optimizer="adam", weight_decay=0.5, learning_rate=1.0))
    kernel = tf.Variable([1.0], name="dense/kernel")
    optimizer.apply_gradients([(tf.zeros(1), kernel)])
    assert kernel.numpy() == 1.0
    assert float(optimizer.learning_rate) == 1.0
