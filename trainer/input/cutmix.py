"""CutMix: replaces a rectangle of an image by the same rectangle of another film's image, and mixes the labels by area.

Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features".

A film's partner stands at the same index in the next global batch. The same worker reads both, however many workers there are, so
the result depends only on the seed and the film's position. A partner from the same batch would depend on how the batch is shared
among the workers. Only the input pipeline has the next batch, so images are mixed here, before the device augments them.
"""

import tensorflow as tf

from trainer.input import stateless

_STREAM = 16  # The layers of the networks use the lower numbers.


@tf.autograph.experimental.do_not_convert
def mixed(
    batches: tf.data.Dataset, *, share: float, batches_a_step: int, seed: int, batch_size: int, parallel_calls: int
) -> tf.data.Dataset:
    """Mixes a random share of the films with their partners.

    Args:
      batches: a dataset of ({"image": uint8 [b, H, W, 3], "label": float32 [b, G]}, position int64 [b]), with one step more than
        is to be returned.
      share: the share of films to mix, from 0 to 1.
      batches_a_step: the number of batches that make up this worker's share of a global batch.
      seed: the job's seed.
      batch_size: the size of the global batch.
      parallel_calls: the number of batches to mix at the same time.

    Returns:
      A dataset of the same form without the last step; the labels of mixed films lie between 0 and 1.
    """
    films, _ = batches.element_spec
    blank = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), films)
    position = tf.zeros(films["image"].shape[:1], tf.int64)

    def with_partners(waiting: tuple, arrived: tuple) -> tuple[tuple, tuple]:
        films, position = waiting[0]
        return (*waiting[1:], arrived), (films, arrived[0], position)

    def mix(films: dict[str, tf.Tensor], partners: dict[str, tf.Tensor], position: tf.Tensor) -> tuple[dict, tf.Tensor]:
        draws = stateless.uniform(position, 4, seed=seed, stream=_STREAM, batch_size=batch_size)
        inside = _rectangles(draws[:, 1:], *films["image"].shape[1:3]) & (draws[:, :1] < share)[:, :, tf.newaxis]
        theirs = tf.reduce_mean(tf.cast(inside, tf.float32), axis=(1, 2))[:, tf.newaxis]
        image = tf.where(inside[..., tf.newaxis], partners["image"], films["image"])
        return {"image": image, "label": films["label"] * (1 - theirs) + partners["label"] * theirs}, position

    paired = batches.scan(((blank, position),) * batches_a_step, with_partners).skip(batches_a_step)
    return paired.map(mix, num_parallel_calls=parallel_calls)


def _rectangles(draws: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns which pixels the partner's image replaces, bool [b, H, W].

    Args:
      draws: the rectangles' area, centre row and centre column, float32 [b, 3] in [0, 1); parts beyond the edges are cut off.
      height: the height of the images in pixels.
      width: the width of the images in pixels.
    """
    area, row, column = tf.split(draws, 3, axis=1)
    half = tf.sqrt(area) / 2

    def within(centre: tf.Tensor, size: int) -> tf.Tensor:
        return tf.abs((tf.range(size, dtype=tf.float32) + 0.5) / size - centre) < half

    return within(row, height)[:, :, tf.newaxis] & within(column, width)[:, tf.newaxis, :]
