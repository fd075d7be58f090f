"""Random numbers that depend on where a film stands in training, and on nothing else.

Dropout and augmentation draw from (seed, step, place in the global batch): the same film gets the same numbers
whichever worker or replica holds it, and a job that is killed and resumed draws what it would have drawn.
"""

import tensorflow as tf


def uniform(position: tf.Tensor, numbers: int, *, seed: int, stream: int, batch_size: int) -> tf.Tensor:
    """Numbers in [0, 1) for each film of a batch.

    They are drawn for the whole global batch, of which a replica keeps its own rows. That is cheap as long as a film
    needs few of them, and it needs no generator of one's own.

    Args:
      position: int64 [b], as `pipeline.training_dataset` gives it; all of one step.
      numbers: how many a film gets.
      seed: the job's seed.
      stream: keeps the layers of a network apart.
      batch_size: the global batch.

    Returns:
      float32 [b, numbers].
    """
    step, place = position[0] // batch_size, position % batch_size
    step_seed = tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), step, alg="philox")
    # Philox by name: the automatic choice differs from one kind of device to another, and under XLA. Its bits are the same
    # everywhere, and the floats that TensorFlow makes of them are not those of XLA.
    bits = tf.random.stateless_uniform([batch_size, numbers], step_seed, None, None, tf.uint32, alg="philox")
    drawn = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24
    return tf.gather(drawn, place)
