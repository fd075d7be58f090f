"""TFRecord files written without TensorFlow equal TensorFlow's own, byte for byte."""

from pathlib import Path

import pytest
import tensorflow as tf

from trainer.dataset import tfrecord

FEATURES: dict[str, list[bytes] | list[int]] = {
    "image/encoded": [bytes(range(256)) * 300],
    "image/label": [0, 1, 1, 0, 2**40, -1],
    "image/label_text": ["Comédie".encode(), b"Drama"],
    "image/id": [b""],
    "nothing": [],
}


def by_tensorflow(features: dict[str, list[bytes] | list[int]]) -> bytes:
    def feature(values):
        if values and isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    example = tf.train.Example(features=tf.train.Features(feature={key: feature(values) for key, values in features.items()}))
    return example.SerializeToString(deterministic=True)


def test_an_example_has_the_bytes_of_tensorflow():
    assert tfrecord.serialize(FEATURES) == by_tensorflow(FEATURES)
    backwards = dict(reversed(FEATURES.items()))
    assert tfrecord.serialize(backwards) == tfrecord.serialize(FEATURES)


def test_a_file_has_the_bytes_of_tensorflow(tmp_path: Path):
    records = [b"", b"a", bytes(100_000), tfrecord.serialize(FEATURES)]
    with tfrecord.Writer(tmp_path / "ours") as writer:
        for record in records:
            writer.write(record)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as theirs:
        for record in records:
            theirs.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "ours"))] == records


def test_a_full_disk_is_reported():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("the system has no /dev/full")
    with pytest.raises(OSError, match="No space left"), tfrecord.Writer(full) as writer:
        writer.write(bytes(1 << 20))
