"""Layers whose results, but for rounding, do not depend on how a batch is shared out, nor at all on when a job was interrupted."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.input import stateless


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
        draws = stateless.uniform(position, channels, seed=self._seed, stream=self._stream, batch_size=self._batch_size)
        mask = tf.cast(draws >= self._rate, x.dtype) / (1 - self._rate)
        return x * tf.reshape(mask, (-1, *(1,) * (len(x.shape) - 2), channels))


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization (Ioffe and Szegedy 2015) of x [b, H, W, C] over the global batch, exact in three ways, unlike Keras's.

    A replica's share of the batch may be too small for statistics of its own: they are those of the global batch, summed in
    float32 whatever the network computes in.

    Keras keeps the moving statistics once a replica and saves their mean; the mean of three equal floats may be another float.
    Here all replicas hold one value, and it is saved.

    The gradient is written out. Differentiated op by op, x has three uses (mean, variance, result), whose gradients TensorFlow
    adds in one AddN. That kernel begins with whichever addend's memory it may overwrite, which depends on what else runs at the
    moment: the sum of three floats then differs from run to run. Two are the same either way. It also keeps x alone in memory.

    All passes over x are TensorFlow's fused operations, which take a third of the time of the same arithmetic op by op on a CPU.
    One replica has the whole batch, and there they are one pass forwards and one back.
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
        normalize = _normalize_alone if _replicas() == 1 else _normalize_synchronized
        outputs, mean, variance = normalize(inputs, tf.identity(self.gamma), tf.identity(self.beta), self.epsilon)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign_sub((moving - value) * (1 - self.momentum))
        return outputs


def _normalize_alone(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes x [b, H, W, C] with its own statistics; returns it, and its mean and variance, both [C]."""
    outputs, mean, unbiased = tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, epsilon=epsilon)
    count = _count(inputs)
    return outputs, mean, unbiased * ((count - 1) / count)


def _normalize_synchronized(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same with the statistics of the batches of all replicas."""
    # The fused operation is the fastest way to the statistics, even though what it normalizes goes unused.
    _, mean, variance = _normalize_alone(tf.stop_gradient(inputs), gamma, beta, epsilon)
    mean, square = _batch_mean([tf.stop_gradient(mean), tf.stop_gradient(variance + tf.square(mean))])
    variance = tf.maximum(square - tf.square(mean), 0.0)
    return _normalize(inputs, gamma, beta, mean, variance, epsilon), mean, variance


def _normalize(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Normalizes with the global batch's mean and variance, both [C], which depend on the inputs too."""

    @tf.custom_gradient
    def normalize(
        inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # What the gradient would be if mean and variance were constants; and [C] each, of this replica, as the optimizer
            # expects them.
            d_constant, d_gamma, d_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=inputs,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=False,
            )
            count = _count(inputs)
            mean_d, mean_d_normalized = _batch_mean([d_beta / count, d_gamma / count])
            # Through them comes what is linear in the normalized inputs: it is another normalization.
            scale = gamma * tf.math.rsqrt(variance + epsilon)
            return d_constant - _apply(inputs, scale * mean_d_normalized, scale * mean_d), d_gamma, d_beta

        return _apply(inputs, gamma, beta), gradient

    def _apply(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        return tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, mean, variance, epsilon=epsilon, is_training=False)[0]

    return normalize(inputs, gamma, beta)


def _count(x: tf.Tensor) -> tf.Tensor:
    """How many values a channel of x [b, H, W, C] has."""
    return tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)


def _replicas() -> int:
    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else replica.num_replicas_in_sync


def _batch_mean(means: list[tf.Tensor]) -> list[tf.Tensor]:
    """Means over the global batch of means over a replica's batch, each [C], in one collective."""
    if _replicas() == 1:
        return means
    return tf.unstack(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.stack(means)))
