"""What training minimises and how: the loss, the figures beside it, the optimizer and its learning rate."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model import fine_tuning
from trainer.model.adam import Adam


class GenreLoss(keras.losses.Loss):
    """Sigmoid cross-entropy, the mean over genres: one yes-or-no question a genre."""

    def __init__(self) -> None:
        super().__init__(name="loss")

    def call(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each film: float32 [b] of labels and logits [b, G]; a label may lie between 0 and 1."""
        # TensorFlow's own sigmoid cross-entropies use the logits three times, and are not exact: see layers.BatchNormalization.
        missed, added = tf.math.softplus(-logits), tf.math.softplus(logits)
        return tf.reduce_mean(labels * missed + (1 - labels) * added, axis=-1)


def best_constant(genre_counts: Mapping[str, int], examples: int) -> np.ndarray:
    """The logits with the lowest loss of those that are the same for every film, float32 [G].

    Args:
      genre_counts: films of each genre among the training examples, in the data set's order.
      examples: how many training examples there are.
    """
    # A half more of either kind, so that a genre of none or of all has an end.
    share = (np.array(list(genre_counts.values())) + 0.5) / (examples + 1)
    return np.log(share / (1 - share)).astype(np.float32)


class Precision(keras.metrics.Precision):
    """Micro-averaged precision at a probability of one half, of logits."""

    def update_state(self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Operation:
        """Takes labels and logits [b, G]."""
        return super().update_state(labels, tf.sigmoid(logits), sample_weight)


class Recall(keras.metrics.Recall):
    """Micro-averaged recall at a probability of one half, of logits."""

    def update_state(self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Operation:
        """Takes labels and logits [b, G]."""
        return super().update_state(labels, tf.sigmoid(logits), sample_weight)


def training_metrics() -> list[keras.metrics.Metric]:
    """Figures over the training batches; `accuracy` is categorical: the likeliest genre against the first true one."""
    return [keras.metrics.CategoricalAccuracy(name="accuracy"), Precision(name="precision"), Recall(name="recall")]


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate as a function of the global step alone, so that a resumed job continues on the same curve."""
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)

    def rate(step: int) -> float:
        if step < warmup:
            return config.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / (total - warmup)
        factors = {
            "constant": lambda: 1.0,
            "step": lambda: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
            "exponential": lambda: 0.01**done,
            "cosine": lambda: (1 + math.cos(math.pi * done)) / 2,  # Loshchilov and Hutter 2017, without restarts.
        }
        return config.learning_rate * factors[config.schedule]()

    return rate


def optimizer(config: TrainConfig, pretrained: fine_tuning.Pretrained | None = None) -> keras.optimizers.Optimizer:
    """The job's optimizer; a callback sets its learning rate before every step, and its multiplier for the pretrained part."""
    made = _optimizer(config, pretrained)
    # Decay is for the weights that multiply the input; a pull on offsets and scales only costs fit. Those of others begin nearer to
    # where they should end than 0 is (Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning").
    begun = pretrained.backbone.trainable_variables if pretrained else None
    made.exclude_from_weight_decay(var_list=begun, var_names=["bias", "gamma", "beta"])
    return made


def _optimizer(config: TrainConfig, pretrained: fine_tuning.Pretrained | None) -> keras.optimizers.Optimizer:
    decay = config.weight_decay if config.optimizer == "adamw" else None
    if pretrained is not None:
        return fine_tuning.DiscriminativeAdam(pretrained, learning_rate=config.learning_rate, weight_decay=decay)
    return Adam(config.learning_rate, weight_decay=decay)
