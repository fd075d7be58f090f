"""Dropout and batch normalization with reproducible results.

Up to rounding, the results do not depend on how a batch is shared among replicas. They do not depend at all on when a job was
interrupted.
"""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from trainer.input import stateless


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) whose masks depend only on (seed, step, index in the global batch).

    Keras's own layer draws from a generator whose state is not in a checkpoint, so a resumed job would draw other masks.

    Called on (x, position int64 [b]); returns a tensor like x. Of x [b, C] it drops single features; of x [b, H, W, C] it drops
    whole channels (Tompson et al. 2015), because neighbouring values of a channel carry nearly the same information.
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
    """Batch normalization (Ioffe and Szegedy 2015) of x [b, H, W, C] over the global batch, reproducible where Keras's is not.

    Statistics: a replica's share of the batch may be too small for good statistics. Mean and variance are taken over the global
    batch, and summed in float32 whatever the network computes in.

    Moving statistics: Keras keeps one copy on each replica and saves their mean, but the mean of three equal floats may be
    another float. Here all replicas hold one value, and that is saved.

    Gradient: it is written out. Differentiated op by op, x has three uses (mean, variance, result), and TensorFlow adds their
    gradients in one AddN. That kernel starts with an addend whose memory it may overwrite, and which one that is depends on what
    else runs at the moment, so the sum of three floats differs from run to run. A sum of two floats has no such order. The
    written gradient also keeps only x in memory.

    Speed: all passes over x are TensorFlow's fused operations, which on a CPU take a third of the time of the same arithmetic op
    by op. With one replica, which has the whole batch, there is one pass forward and one back.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(synchronized=True, **kwargs)

    def add_weight(self, *args: object, **kwargs: object) -> tf.Variable:
        """Adds a weight as Keras's method does; one that Keras would keep separately on each replica is the same on all."""
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
    """Normalizes [b, H, W, C] by its own statistics; returns the result, and the mean and variance, float32 [C] each."""
    outputs, mean, unbiased = tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, epsilon=epsilon)
    count = _count(inputs)
    return outputs, mean, unbiased * ((count - 1) / count)


def _normalize_synchronized(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes [b, H, W, C] by the statistics of all replicas' batches; returns the result, mean and variance."""
    # The fused operation is the fastest way to the statistics, even though its normalized output is not used.
    _, mean, variance = _normalize_alone(tf.stop_gradient(inputs), gamma, beta, epsilon)
    mean, square = _batch_mean([tf.stop_gradient(mean), tf.stop_gradient(variance + tf.square(mean))])
    variance = tf.maximum(square - tf.square(mean), 0.0)
    return _normalize(inputs, gamma, beta, mean, variance, epsilon), mean, variance


def _normalize(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Normalizes by the mean and variance of the global batch, [C] each; the gradient knows that they depend on the inputs."""

    @tf.custom_gradient
    def normalize(
        inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # The gradient of the inputs as if mean and variance were constants; and of gamma and beta, [C] each, over this
            # replica's batch, as the optimizer expects them.
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
            # The gradient through mean and variance is linear in the normalized inputs: it is another normalization.
            scale = gamma * tf.math.rsqrt(variance + epsilon)
            return d_constant - _apply(inputs, scale * mean_d_normalized, scale * mean_d), d_gamma, d_beta

        return _apply(inputs, gamma, beta), gradient

    def _apply(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        return tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, mean, variance, epsilon=epsilon, is_training=False)[0]

    return normalize(inputs, gamma, beta)


def _count(x: tf.Tensor) -> tf.Tensor:
    """Returns the number of values in a channel of x [b, H, W, C]: b · H · W."""
    return tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)


def _replicas() -> int:
    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else replica.num_replicas_in_sync


def _batch_mean(means: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns means over the global batch, given means over this replica's batch, each [C], in one collective operation."""
    if _replicas() == 1:
        return means
    return tf.unstack(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.stack(means)))
