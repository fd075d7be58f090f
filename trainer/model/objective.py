"""What training minimises and how: the loss, the training metrics, the optimizer and its learning rate."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras as keras

from trainer.config import TrainConfig
from trainer.model import fine_tuning
from trainer.model.adam import Adam


class GenreLoss(keras.losses.Loss):
    """The sigmoid cross-entropy, averaged over genres: each genre is a yes-or-no question."""

    def __init__(self) -> None:
        super().__init__(name="loss")

    def call(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each film, float32 [b].

        Args:
          labels: float32 [b, G], in [0, 1].
          logits: float32 [b, G].
        """
        # TensorFlow's own functions use the logits three times, so their gradients differ from run to run: see
        # layers.BatchNormalization.
        missed, added = tf.math.softplus(-logits), tf.math.softplus(logits)
        return tf.reduce_mean(labels * missed + (1 - labels) * added, axis=-1)


def best_constant(genre_counts: Mapping[str, int], examples: int) -> np.ndarray:
    """Returns the logits with the lowest loss among logits that are the same for every film, float32 [G].

    Args:
      genre_counts: the number of training examples of each genre, in the data set's order.
      examples: the number of training examples.
    """
    # Half an example more with the genre and half one more without keep the logit finite where all or none have it.
    share = (np.array(list(genre_counts.values())) + 0.5) / (examples + 1)
    return np.log(share / (1 - share)).astype(np.float32)


class Precision(keras.metrics.Precision):
    """Micro-averaged precision at a probability of 0.5, computed from logits."""

    def update_state(self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Operation:
        """Adds a batch of labels and logits, float32 [b, G] each."""
        return super().update_state(labels, tf.sigmoid(logits), sample_weight)


class Recall(keras.metrics.Recall):
    """Micro-averaged recall at a probability of 0.5, computed from logits."""

    def update_state(self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Operation:
        """Adds a batch of labels and logits, float32 [b, G] each."""
        return super().update_state(labels, tf.sigmoid(logits), sample_weight)


def training_metrics() -> list[keras.metrics.Metric]:
    """Returns the metrics over training batches; `accuracy` is categorical: the likeliest genre against the first true one."""
    return [keras.metrics.CategoricalAccuracy(name="accuracy"), Precision(name="precision"), Recall(name="recall")]


def learning_rate(config: TrainConfig, *, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the learning rate as a function of the global step alone, so that a resumed job continues on the same curve.

    Args:
      config: the job's flags.
      steps_per_epoch: the number of steps in an epoch.
    """
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
    """Returns the job's optimizer; a callback sets its learning rate, and the backbone's multiplier, before every step.

    Args:
      config: the job's flags.
      pretrained: the part of the network that starts with pretrained weights, or None.
    """
    optimizer = _optimizer(config, pretrained)
    # Decay is for weights that multiply the input; on offsets and scales it only costs accuracy. Pretrained weights start nearer
    # to good values than 0 is (Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning").
    exempt = pretrained.backbone.trainable_variables if pretrained else None
    optimizer.exclude_from_weight_decay(var_list=exempt, var_names=["bias", "gamma", "beta"])
    return optimizer


def _optimizer(config: TrainConfig, pretrained: fine_tuning.Pretrained | None) -> keras.optimizers.Optimizer:
    decay = config.weight_decay if config.optimizer == "adamw" else None
    if pretrained is not None:
        return fine_tuning.DiscriminativeAdam(pretrained, learning_rate=config.learning_rate, weight_decay=decay)
    return Adam(config.learning_rate, weight_decay=decay)
