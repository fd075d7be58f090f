"""Layers whose results, but for rounding, do not depend on how a batch is shared out, nor at all on when a job was interrupted."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer import randomness


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) whose masks depend on (seed, step, place in the global batch) alone.

    Keras's own draws from a generator whose state is not in a checkpoint, so that a resumed job would draw other masks.
    Called on (x, position): x [b, C] loses single features, x [b, H, W, C] loses whole channels (Tompson et al. 2015),
    since neighbouring values of a channel say nearly the same.
    """

    def __init__(self, rate: float, *, seed: int, stream: int, batch_size: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._rate, self._seed, self._stream, self._batch_size = rate, seed, stream, batch_size

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        x, position = inputs
        if not training or self._rate == 0:
            return x
        channels = x.shape[-1]
        draws = randomness.uniform(position, channels, seed=self._seed, stream=self._stream, batch_size=self._batch_size)
        mask = tf.cast(draws >= self._rate, x.dtype) / (1 - self._rate)
        return x * tf.reshape(mask, (-1, *(1,) * (len(x.shape) - 2), channels))


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization (Ioffe and Szegedy 2015) over the global batch, x [b, …, C], exact in three ways that Keras's is not.

    A replica's share of the batch may be too small for statistics of its own: they are those of the global batch, summed in
    float32 whatever the network computes in.

    Keras keeps the moving statistics once a replica and saves their mean; the mean of three equal floats may be another float.
    Here all replicas hold one value, and it is saved.

    The gradient is written out. Differentiated op by op, x has three uses (mean, variance, result), whose gradients TensorFlow
    adds in one AddN. That kernel begins with whichever addend's memory it may overwrite, which depends on what else runs at the
    moment: the sum of three floats then differs from run to run. Two are the same either way. It also keeps x alone in memory.

    One replica has the whole batch, and TensorFlow's fused operation does all of this for pictures, x [b, H, W, C], in one pass
    forwards and one back: a training step of the residual network takes a fifth less on a CPU with it.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(synchronized=True, **kwargs)

    def add_weight(self, *args: object, **kwargs: object) -> tf.Variable:
        """Makes a weight that is the same on every replica."""
        if kwargs.get("synchronization") == tf.VariableSynchronization.ON_READ:
            kwargs["synchronization"] = tf.VariableSynchronization.AUTO
            kwargs["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return super().add_weight(*args, **kwargs)

    @tf.autograph.experimental.do_not_convert
    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        normalize = _normalize_fused if _replicas() == 1 and len(inputs.shape) == 4 else _normalize_synchronized
        outputs, mean, variance = normalize(inputs, tf.identity(self.gamma), tf.identity(self.beta), self.epsilon)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign_sub((moving - value) * (1 - self.momentum))
        return outputs


def _normalize_fused(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes x [b, H, W, C]; returns it, and the batch's mean and variance, both [C]."""
    outputs, mean, unbiased = tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, epsilon=epsilon)
    count = _count(inputs)
    return outputs, mean, unbiased * ((count - 1) / count)


def _normalize_synchronized(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same over the batches of all replicas, and for any rank."""
    x = tf.stop_gradient(tf.cast(inputs, tf.float32))
    axes = list(range(len(x.shape) - 1))
    mean, square = _batch_mean([tf.reduce_mean(x, axes), tf.reduce_mean(tf.square(x), axes)])
    variance = tf.maximum(square - tf.square(mean), 0.0)
    return _normalize(inputs, gamma, beta, mean, tf.math.rsqrt(variance + epsilon)), mean, variance


@tf.custom_gradient
def _normalize(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """Normalizes with the batch's mean and one over its standard deviation, both [C], which depend on the inputs too."""
    outputs = (tf.cast(inputs, tf.float32) - mean) * (scale * gamma) + beta

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        axes = list(range(len(inputs.shape) - 1))
        d_outputs = tf.cast(upstream, tf.float32)
        normalized = (tf.cast(inputs, tf.float32) - mean) * scale
        # [C] each, of this replica, as the optimizer expects them.
        d_beta, d_gamma = tf.reduce_sum(d_outputs, axes), tf.reduce_sum(d_outputs * normalized, axes)
        count = _count(inputs)
        mean_d, mean_d_normalized = _batch_mean([d_beta / count, d_gamma / count])
        d_inputs = (d_outputs - mean_d - normalized * mean_d_normalized) * (scale * gamma)
        return tf.cast(d_inputs, inputs.dtype), d_gamma, d_beta, None, None

    return tf.cast(outputs, inputs.dtype), gradient


def _count(x: tf.Tensor) -> tf.Tensor:
    """How many values a channel of x [b, …, C] has."""
    return tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)


def _replicas() -> int:
    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else replica.num_replicas_in_sync


def _batch_mean(means: list[tf.Tensor]) -> list[tf.Tensor]:
    """Means over the global batch of means over a replica's batch, each [C], in one collective."""
    if _replicas() == 1:
        return means
    return tf.unstack(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.stack(means)))
