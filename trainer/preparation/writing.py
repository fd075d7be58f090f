"""Writing the shards of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from etils import epath

from trainer.dataset.manifest import Dataset, Shard, checksum, shard_name
from trainer.errors import UserError
from trainer.preparation.decoding import Stored
from trainer.preparation.output import Output
from trainer.process.progress import progress

_SHARD_BYTES = 100_000_000


@dataclass(frozen=True)
class Example:
    """A film as it is written; `picture` says where the spool holds it."""

    id: str
    genres: frozenset[str]
    picture: Stored


def shard_count(examples: Sequence[Example], *, multiple_of: int) -> int:
    """Returns how many shards a split gets: enough for 100 MB each at most, and a multiple if there are examples enough.

    The multiple is what the reader opens at a time. Fewer examples than that are spread over at most four shards.
    """
    if len(examples) < multiple_of:
        return min(len(examples), 4)
    size = sum(example.picture.size for example in examples)
    return min(multiple_of * max(1, math.ceil(size / (multiple_of * _SHARD_BYTES))), len(examples))


def write_shards(
    output: Output, split: str, examples: Sequence[Example], dataset: Dataset, *, count: int, spool: BinaryIO
) -> tuple[Shard, ...]:
    """Writes the shards of a split; example i goes to shard i mod `count`.

    Args:
      output: where to.
      split: one of `manifest.SPLITS`.
      examples: in their order.
      dataset: says the genres and the form of the pictures.
      count: how many shards; at most as many as examples.
      spool: the file in which `decoding.store` has put the pictures, open for reading.

    Raises:
      UserError: TensorFlow cannot write a file, which it does not say as an OSError.
      LostService: the output is on Cloud Storage, which does not answer.
    """
    import tensorflow as tf  # Takes seconds: the processes that decode pictures import this program too, and need none of it.

    shards = []
    for number in progress(range(count), total=count, what=f"{output.verb} shards of {split}"):
        path = output.folder / shard_name(split, number, count)
        members = examples[number::count]
        try:
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in members:
                    spool.seek(example.picture.offset)
                    writer.write(_serialize(tf, example, spool.read(example.picture.size), dataset))
        except tf.errors.OpError as error:
            raise UserError(f"{path} cannot be written ({error.message}): free some space or choose another place") from None
        shards.append(Shard(path.name, len(members), path.stat().st_size, checksum(epath.Path(path))))
        output.add(shards[-1])
    return tuple(shards)


def _serialize(tf: Any, example: Example, encoded: bytes, dataset: Dataset) -> bytes:
    def of_bytes(*values: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(*values: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    feature = {
        "image/encoded": of_bytes(encoded),
        "image/format": of_bytes(dataset.encoding.encode()),
        "image/height": of_ints(dataset.height),
        "image/width": of_ints(dataset.width),
        "image/id": of_bytes(example.id.encode()),
        "image/label": of_ints(*(int(genre in example.genres) for genre in dataset.genres)),
        "image/label_text": of_bytes(*(genre.encode() for genre in dataset.genres if genre in example.genres)),
    }
    # A protocol buffer's map has no order of its own.
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)
