"""Data sets that repeat one image, for measurements that depend on the amount of data and not on its content."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from etils import epath

from trainer.dataset import manifest
from trainer.images import decode
from trainer.storage import files


def write(folder: Path, pixels: np.ndarray, shard_counts: Mapping[str, int], *, films_a_shard: int) -> None:
    """Writes a data set whose films share one image, uint8 [H, W, 3]; `shard_counts` has the number of shards of each split."""
    image = decode.encode_jpeg(pixels)

    def record(film: int) -> bytes:
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "image/id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(film).encode()])),
            "image/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[film % 2, 1 - film % 2])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    splits = {}
    for split, count in shard_counts.items():
        written = []
        for number in range(count):
            path = folder / manifest.shard_name(split, number, count)
            with tf.io.TFRecordWriter(str(path)) as writer:
                for film in range(films_a_shard):
                    writer.write(record(film))
            written.append(manifest.Shard(path.name, films_a_shard, path.stat().st_size, files.checksum(epath.Path(path))))
        odd, even = count * (films_a_shard // 2), count * -(-films_a_shard // 2)
        splits[split] = manifest.Split(odd + even, {"a": odd, "b": even}, tuple(written))
    height, width, _ = pixels.shape
    dataset = manifest.Dataset(epath.Path(folder), "", ("a", "b"), height, width, "jpeg", splits)
    dataset = dataclasses.replace(dataset, fingerprint=manifest.fingerprint(dataset))
    (folder / manifest.DATASET_FILE).write_text(manifest.to_text(dataset))
