"""CutMix: a rectangle of each film's poster is another film's, and so is that share of its genres.

Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features".

A film's partner is the one at its place in the next global batch: the same worker reads both, however many workers there are, and
what a film becomes depends on the seed and its position alone. Partners within a batch would differ with how it is shared out. The
next batch is in the hands of the input and not of the device, so the pictures are mixed here, before the device augments them.
"""

import tensorflow as tf

from trainer.input import stateless

_STREAM = 16  # The layers of the networks have the first ones.


@tf.autograph.experimental.do_not_convert
def mixed(
    batches: tf.data.Dataset, *, share: float, batches_a_step: int, seed: int, batch_size: int, parallel_calls: int
) -> tf.data.Dataset:
    """Mixes each film with its partner, or leaves it as it is.

    Args:
      batches: of ({"image": uint8 [b, H, W, 3], "label": float32 [b, G]}, position int64 [b]), a step more than is wanted.
      share: of the films are mixed.
      batches_a_step: how many of them make up this worker's part of a global batch.
      seed: the job's seed.
      batch_size: the global batch.
      parallel_calls: how many batches are mixed at the same time.

    Returns:
      The same without the last step, the labels of mixed films between 0 and 1.
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
    """Which pixels are the partner's, bool [b, H, W], of draws [b, 3]: area and centre; what is beyond the edges is cut off."""
    area, row, column = tf.split(draws, 3, axis=1)
    half = tf.sqrt(area) / 2

    def within(centre: tf.Tensor, size: int) -> tf.Tensor:
        return tf.abs((tf.range(size, dtype=tf.float32) + 0.5) / size - centre) < half

    return within(row, height)[:, :, tf.newaxis] & within(column, width)[:, tf.newaxis, :]
