"""Writing the shards of a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from etils import epath

from trainer.dataset import tfrecord
from trainer.dataset.manifest import Dataset, Shard, shard_name
from trainer.preparation.decoding import Stored
from trainer.preparation.output import Output
from trainer.process.progress import progress
from trainer.storage import files

_SHARD_BYTES = 100_000_000


@dataclass(frozen=True)
class Example:
    """A film as it is written to a shard; `image` says where in the spool its image is."""

    id: str
    genres: frozenset[str]
    image: Stored


def shard_count(examples: Sequence[Example], *, multiple_of: int) -> int:
    """Returns how many shards a split gets, so that a shard has at most 100 MB.

    Args:
      examples: the examples of the split.
      multiple_of: the number of shards that the reader opens at a time. The result is a multiple of it where there are enough
        examples; fewer examples than `multiple_of` are spread over at most four shards.
    """
    if len(examples) < multiple_of:
        return min(len(examples), 4)
    size = sum(example.image.size for example in examples)
    return min(multiple_of * math.ceil(size / (multiple_of * _SHARD_BYTES)), len(examples))


def write_shards(
    output: Output, split: str, examples: Sequence[Example], dataset: Dataset, *, count: int, spool: BinaryIO
) -> tuple[Shard, ...]:
    """Writes the shards of a split; example i goes to shard i mod `count`.

    Args:
      output: the destination of the shards.
      split: one of `manifest.SPLITS`.
      examples: the examples of the split, in their order.
      dataset: the data set's genres and the size and encoding of its images; its splits are not used.
      count: the number of shards, at most the number of examples.
      spool: the file into which `decoding.store` wrote the images, open for reading.

    Returns:
      The shards, in the order of their numbers.

    Raises:
      OSError: a file cannot be written.
      LostService: the output is on Cloud Storage, which does not answer.
    """
    shards = []
    for number in progress(range(count), total=count, what=f"{output.verb} shards of {split}"):
        path = output.folder / shard_name(split, number, count)
        members = examples[number::count]
        try:
            with tfrecord.Writer(path) as writer:
                for example in members:
                    spool.seek(example.image.offset)
                    writer.write(_serialize(example, spool.read(example.image.size), dataset))
        except OSError as error:
            error.filename = error.filename or str(path)  # For the user's error message: a failed write carries no file name.
            raise
        shards.append(Shard(path.name, len(members), path.stat().st_size, files.checksum(epath.Path(path))))
        output.add(shards[-1])
    return tuple(shards)


def _serialize(example: Example, encoded: bytes, dataset: Dataset) -> bytes:
    return tfrecord.serialize(
        {
            "image/encoded": [encoded],
            "image/format": [dataset.encoding.encode()],
            "image/height": [dataset.height],
            "image/width": [dataset.width],
            "image/id": [example.id.encode()],
            "image/label": [int(genre in example.genres) for genre in dataset.genres],
            "image/label_text": [genre.encode() for genre in dataset.genres if genre in example.genres],
        }
    )
