import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from trainer.model.adam import Adam


def _after_steps(optimizer, steps=20):
    random = np.random.default_rng(0)
    weights = [tf.Variable(random.normal(size=shape).astype(np.float32)) for shape in ((3, 3, 4, 8), (8,))]
    optimizer.build(weights)

    @tf.function
    def step(gradients):
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    for number in range(steps):
        optimizer.learning_rate = 0.1 / (number + 1)
        step([tf.constant(random.normal(size=weight.shape).astype(np.float32)) for weight in weights])
    return [variable.numpy() for variable in (*weights, *optimizer.variables)]


@pytest.mark.parametrize(
    ("ours", "of_keras"),
    [
        (lambda: Adam(0.1), lambda: keras.optimizers.Adam(0.1)),
        (lambda: Adam(0.1, weight_decay=0.02), lambda: keras.optimizers.AdamW(0.1, weight_decay=0.02)),
    ],
    ids=["adam", "adamw"],
)
def test_weights_and_averages_agree_with_those_of_keras(ours, of_keras):
    for value, expected in zip(_after_steps(ours()), _after_steps(of_keras()), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
