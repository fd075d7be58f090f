"""The input pipeline: from TFRecord shards to batches of uint8 images on the device.

Training reads in the order that `trainer.dataset.training_order` describes. A job's position in it is one number, the global
step; to start there, the pipeline opens no shard of an earlier round and decodes no image.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.dataset import manifest
from trainer.dataset.training_order import TrainingOrder
from trainer.input import cutmix
from trainer.input.shard_cache import ShardCache
from trainer.process import cores

_PARALLEL_CALLS = cores.available()
_BATCHES_AHEAD = 8

# Constants that make independent random streams of one seed.
_SHARD_ORDER, _WINDOW = 1, 2


@tf.autograph.experimental.do_not_convert
def training_dataset(
    dataset: manifest.Dataset,
    order: TrainingOrder,
    *,
    replica_batch: int,
    first_step: int,
    epochs: int,
    worker: int = 0,
    workers: int = 1,
    mixed: float = 0.0,
    cache: ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns one worker's share of every global batch from `first_step` to the end of the last epoch.

    Args:
      dataset: the data set.
      order: the order of films.
      replica_batch: the number of films that one replica takes at a time; it divides the worker's share of the global batch.
      first_step: the global step to start with.
      epochs: the number of epochs after which training ends, counted from step 0.
      worker: this worker's index.
      workers: the number of workers; it divides the global batch.
      mixed: the share of films that `cutmix` mixes with another, from 0 to 1.
      cache: copies of the shards, or None to read the originals.

    Returns:
      A dataset of ({"image": uint8 [b, H, W, 3], "position": int64 [b]}, labels float32 [b, G]), b = `replica_batch`. A film's
      position counts from the start of training: position // batch_size is the step, position % batch_size the index in the
      global batch.
    """
    steps = epochs * order.steps_per_epoch
    if mixed:  # The films of the last step need partners too.
        steps, epochs = steps + 1, epochs + 1
    records = _training_records(order, first_step=first_step, epochs=epochs, worker=worker, workers=workers, cache=cache)
    positions = tf.data.Dataset.range(first_step * order.batch_size + worker, steps * order.batch_size, workers)
    images = _decoded(tf.data.Dataset.zip(records, positions), dataset, replica_batch)
    if mixed:
        images = cutmix.mixed(
            images,
            share=mixed,
            batches_a_step=order.batch_size // workers // replica_batch,
            seed=order.seed,
            batch_size=order.batch_size,
            parallel_calls=_PARALLEL_CALLS,
        )
    return _with_options(images.map(lambda parsed, position: ({"image": parsed["image"], "position": position}, parsed["label"])))


def _training_records(
    order: TrainingOrder, *, first_step: int, epochs: int, worker: int, workers: int, cache: ShardCache | None
) -> tf.data.Dataset:
    """Returns the serialized examples at the positions p ≡ worker (mod workers), from `first_step` on: strings []."""
    paths = tf.constant(order.paths)
    count, per_shard, opened = len(order.paths), order.records_per_shard, order.open_shards
    first_epoch, step = divmod(first_step, order.steps_per_epoch)
    # Where the shards divide among the workers, each opens only those that its own films are in.
    own_shards = order.divides_among(workers)

    def records(shard: tf.Tensor, skip: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        seed = _fold_in(order.seed, _WINDOW, epoch, shard)
        return _shuffled(_shard_records(paths[shard], cache), order.shuffle_window, seed).skip(skip).take(per_shard - skip)

    def one_round(number: tf.Tensor, permutation: tf.Tensor, skip: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        members = permutation[number * opened : (number + 1) * opened]
        if own_shards:
            members, skip = members[worker::workers], skip // workers
        size = tf.size(members, tf.int64)
        turns, entry = skip // size, skip % size
        # Where the rotation starts in its middle, the shards before the entry have given one record more.
        skips = turns + tf.cast(tf.range(size) < entry, tf.int64)
        rotation = tf.data.Dataset.from_tensor_slices((tf.roll(members, -entry, 0), tf.roll(skips, -entry, 0)))
        return rotation.interleave(
            lambda shard, passed: records(shard, passed, epoch),
            cycle_length=opened // workers if own_shards else opened,
            num_parallel_calls=opened // workers if own_shards else opened,
            deterministic=True,
        )

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        permutation = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), _fold_in(order.seed, _SHARD_ORDER, epoch)
        )
        passed = tf.where(epoch == first_epoch, tf.constant(step * order.batch_size, tf.int64), 0)
        per_round = opened * per_shard
        first_round = passed // per_round
        records_of_rounds = tf.data.Dataset.range(first_round, -(-count // opened)).flat_map(
            lambda number: one_round(number, permutation, tf.where(number == first_round, passed % per_round, 0), epoch)
        )
        if not own_shards:
            records_of_rounds = records_of_rounds.shard(workers, worker)
        return records_of_rounds.take((order.steps_per_epoch * order.batch_size - passed) // workers)

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)


def _fold_in(seed: int | tf.Tensor, *numbers: int | tf.Tensor) -> tf.Tensor:
    """Returns a stateless seed, int64 [2], that depends on all arguments; `seed` is a number or a stateless seed."""
    folded = seed if tf.is_tensor(seed) else tf.constant([seed, 0], tf.int64)
    for number in numbers:
        folded = tf.random.experimental.stateless_fold_in(folded, tf.cast(number, tf.int64))
    return folded


def _shuffled(records: tf.data.Dataset, window: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Draws each record of a shard from a window of the next ones, in an order that `seed`, int64 [2], fixes.

    This is what `Dataset.shuffle` does. But that takes only one of the two numbers, and checks whether it is 0 while the graph is
    built, when a seed that depends on the epoch is not known yet.
    """
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=window,
        seed=seed[0],
        seed2=seed[1],
        reshuffle_each_iteration=False,
        output_types=[tf.string],
        output_shapes=[[]],
    )
    return tf.data.experimental.from_variant(shuffled, tf.TensorSpec([], tf.string))


@dataclasses.dataclass(frozen=True)
class LabelledSplit:
    """The ids and labels of a split. Rows are its examples, shard after shard as they were written.

    Attributes:
      ids: the films' ids, [N].
      labels: whether each film has each genre, bool [N, G].
    """

    ids: tuple[str, ...]
    labels: np.ndarray


@tf.autograph.experimental.do_not_convert
def read_labels(dataset: manifest.Dataset, split: str) -> LabelledSplit:
    """Reads the ids and labels of a split without decoding an image.

    Args:
      dataset: the data set.
      split: the name of the split.

    Returns:
      The ids and labels.

    Raises:
      UserError: there is no such split, or it is empty.
    """
    spec = {name: _features(dataset)[name] for name in ("image/id", "image/label")}
    numbered = _numbered_records(dataset, split).batch(1024)
    labels_of = numbered.map(lambda row, records: (row, tf.io.parse_example(records, spec)))
    parsed = list(_with_options(labels_of).as_numpy_iterator())
    in_order = np.argsort(np.concatenate([rows for rows, _ in parsed]))
    ids, labels = (np.concatenate([batch[name] for _, batch in parsed])[in_order] for name in ("image/id", "image/label"))
    return LabelledSplit(ids=tuple(film.decode() for film in ids), labels=labels.astype(bool))


def read_images(dataset: manifest.Dataset, split: str, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """Reads a few images of a split.

    Args:
      dataset: the data set.
      split: the name of the split.
      rows: the rows to read, counted from 0 as in `read_labels`.

    Returns:
      The images by row, each uint8 [H, W, 3].

    Raises:
      UserError: there is no such split, or it is empty.
    """
    wanted = tf.constant(list(rows), tf.int64)
    chosen = _numbered_records(dataset, split).filter(lambda row, record: tf.reduce_any(row == wanted))
    batches = _with_options(_decoded(chosen.map(_record_first), dataset, batch=1)).as_numpy_iterator()
    return {int(row[0]): parsed["image"][0] for parsed, row in batches}


@tf.autograph.experimental.do_not_convert
def evaluation_dataset(
    dataset: manifest.Dataset,
    split: str,
    *,
    replica_batch: int,
    replicas: int,
    worker: int = 0,
    workers: int = 1,
    cache: ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns one worker's share of a split in batches of one static shape; the workers together read every image exactly once.

    Args:
      dataset: the data set.
      split: the name of the split.
      replica_batch: the number of images that one replica takes at a time.
      replicas: the number of replicas of all workers together; each gets equally many batches.
      worker: this worker's index.
      workers: the number of workers; it divides `replicas`.
      cache: copies of the shards, or None to read the originals.

    Returns:
      A dataset of (images uint8 [b, H, W, 3], row int64 [b]), b = `replica_batch`. Rows count the split's examples as in
      `read_labels`; -1 marks the blank images that fill up the last batches.

    Raises:
      UserError: there is no such split, or it is empty.
    """
    # Each worker gets whole shards, so that it reads no others; where there are fewer shards than workers, it gets records.
    by_shard = len(dataset.split(split).shards) >= workers
    if by_shard:
        records = _numbered_records(dataset, split, worker=worker, workers=workers, cache=cache)
    else:
        records = _numbered_records(dataset, split, cache=cache).shard(workers, worker)
    worker_batch = replica_batch * (replicas // workers)
    shares = _shares(dataset.split(split), workers)
    blanks = -(-max(shares) // worker_batch) * worker_batch - shares[worker]
    records = records.concatenate(tf.data.Dataset.from_tensors((np.int64(-1), _blank_record(dataset))).repeat(blanks))
    images = _decoded(records.map(_record_first), dataset, replica_batch)
    return _with_options(images.map(lambda parsed, row: (parsed["image"], row)))


def _shares(split: manifest.Split, workers: int) -> list[int]:
    """Returns the number of examples of a split that each worker evaluates."""
    if len(split.shards) >= workers:
        return [sum(shard.examples for shard in split.shards[worker::workers]) for worker in range(workers)]
    return [len(range(worker, split.examples, workers)) for worker in range(workers)]


def synthetic_dataset(dataset: manifest.Dataset, *, replica_batch: int) -> tf.data.Dataset:
    """Returns one random batch, repeated without end, in the form of `training_dataset`: shows the speed of the device alone.

    Args:
      dataset: the data set, for the shapes of images and labels.
      replica_batch: the number of films that one replica takes at a time.
    """
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (replica_batch, dataset.height, dataset.width, 3), np.uint8)
    labels = random.integers(0, 2, (replica_batch, len(dataset.genres))).astype(np.float32)
    batch = ({"image": image, "position": np.arange(replica_batch)}, labels)
    return _with_options(tf.data.Dataset.from_tensors(batch).cache().repeat())


def _numbered_records(
    dataset: manifest.Dataset, split: str, *, worker: int = 0, workers: int = 1, cache: ShardCache | None = None
) -> tf.data.Dataset:
    """Returns (row, serialized example) of every `workers`-th shard of a split from the `worker`-th on; rows count the split."""
    sizes = [shard.examples for shard in dataset.split(split).shards]
    first_rows = np.cumsum([0, *sizes[:-1]])
    paths = dataset.shard_paths(split)
    return tf.data.Dataset.from_tensor_slices((paths[worker::workers], first_rows[worker::workers])).interleave(
        lambda path, first_row: _shard_records(path, cache).enumerate(first_row),
        cycle_length=min(16, len(paths)),
        num_parallel_calls=min(16, len(paths)),
        deterministic=True,
    )


def _shard_records(path: tf.Tensor, cache: ShardCache | None) -> tf.data.Dataset:
    if cache is None:
        return tf.data.TFRecordDataset(path)
    # `interleave` calls its own function for one shard after the other. Only what happens within the dataset that the function
    # returns happens for several shards at the same time, so the copies are made there.
    return tf.data.Dataset.from_tensors(path).flat_map(lambda original: tf.data.TFRecordDataset(cache.path(original)))


def _record_first(row: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return record, row


def _features(dataset: manifest.Dataset) -> dict[str, tf.io.FixedLenFeature]:
    return {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/id": tf.io.FixedLenFeature([], tf.string),
        "image/label": tf.io.FixedLenFeature([len(dataset.genres)], tf.int64),
    }


def _decoded(records: tf.data.Dataset, dataset: manifest.Dataset, batch: int) -> tf.data.Dataset:
    """Decodes (example, companion) into batches of ({"image": uint8 [b, H, W, 3], "label": float32 [b, G]}, companion)."""
    features = {name: _features(dataset)[name] for name in ("image/encoded", "image/label")}
    shape = (dataset.height, dataset.width, 3)

    def jpeg(record: tf.Tensor, companion: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        # The default method trades accuracy for speed: it is not the one with which prepare encoded the image.
        image = tf.io.decode_jpeg(parsed["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE")
        return _named(tf.ensure_shape(image, shape), parsed), companion

    def raw(serialized: tf.Tensor, companion: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = tf.io.parse_example(serialized, features)
        image = tf.io.decode_raw(parsed["image/encoded"], tf.uint8, fixed_length=math.prod(shape))
        return _named(tf.reshape(image, (batch, *shape)), parsed), companion

    if dataset.encoding == "jpeg":
        return records.map(jpeg, num_parallel_calls=_PARALLEL_CALLS).batch(batch, drop_remainder=True)
    # Without decoding the calls are what costs: one call for a batch.
    return records.batch(batch, drop_remainder=True).map(raw, num_parallel_calls=_PARALLEL_CALLS)


def _named(image: tf.Tensor, parsed: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"image": image, "label": tf.cast(parsed["image/label"], tf.float32)}


def _blank_record(dataset: manifest.Dataset) -> bytes:
    """Returns a serialized example with a black image and no genre, to fill up a batch."""
    image = np.zeros((dataset.height, dataset.width, 3), np.uint8)
    encoded = tf.io.encode_jpeg(image).numpy() if dataset.encoding == "jpeg" else image.tobytes()
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[0] * len(dataset.genres))),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The functions above decide which worker reads what.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # TensorFlow's autotuner, which chooses how many calls run at a time, gains nothing here. Its thread can miss a cancellation
    # and sleep on: deleting an iterator took up to half a minute.
    options.autotune.enabled = False
    return dataset.prefetch(_BATCHES_AHEAD).with_options(options)
