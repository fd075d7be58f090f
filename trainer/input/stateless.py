"""Random numbers that depend only on the seed and on a film's position in training.

Dropout and augmentation draw from (seed, step, index in the global batch): a film gets the same numbers on any worker or replica,
and a job that is killed and resumed draws the same numbers as an undisturbed one.
"""

import tensorflow as tf


def uniform(position: tf.Tensor, numbers: int, *, seed: int, stream: int, batch_size: int) -> tf.Tensor:
    """Returns random numbers for each film of a batch.

    Draws them for the whole global batch, of which a replica keeps the rows of its own films. That is cheap as long as a film
    needs few numbers, and it needs no generator with a state.

    Args:
      position: the films' positions as `pipeline.training_dataset` gives them, all of the same step, int64 [b].
      numbers: how many numbers a film gets.
      seed: the job's seed.
      stream: a number for each user of the seed, such as a layer, so that no two draw the same numbers.
      batch_size: the size of the global batch.

    Returns:
      Uniform numbers in [0, 1), float32 [b, numbers].
    """
    step, index = position[0] // batch_size, position % batch_size
    step_seed = tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), step, alg="philox")
    # The automatic choice of an algorithm depends on the kind of device and on XLA. Philox's bits are the same everywhere, but
    # TensorFlow and XLA make different floats of them, so the floats are made here.
    bits = tf.random.stateless_uniform([batch_size, numbers], step_seed, None, None, tf.uint32, alg="philox")
    drawn = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24
    return tf.gather(drawn, index)
