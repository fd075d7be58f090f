"""Small data sets with drawn images, so that a test can recognize the film from the pixels."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf
from etils import epath

from trainer.dataset import manifest
from trainer.storage import files

GENRES = ("Action", "Comedy", "Drama")
_SIZE = 16
_BLOCK = 4


def film_id(film: int) -> str:
    """Returns the id of a film."""
    return f"tt{film:07d}"


def label_of(film: int) -> np.ndarray:
    """Returns the label of a film, int64 [3]."""
    return np.array([film % 2, film % 3 == 0, 1 - film % 2])


def image_of(film: int) -> np.ndarray:
    """Returns an image, uint8 [16, 16, 3], that encodes the film's number in black and white blocks, which survive JPEG."""
    bits = [(film >> bit) & 1 for bit in range(16)]
    blocks = np.array(bits, np.uint8).reshape(_SIZE // _BLOCK, _SIZE // _BLOCK) * 255
    return np.repeat(np.repeat(blocks, _BLOCK, 0), _BLOCK, 1)[:, :, np.newaxis].repeat(3, 2)


def film_of(image: np.ndarray) -> int:
    """Returns the film that an image shows: the inverse of `image_of`."""
    bits = image[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK, 0].ravel() > 127
    return sum(int(bit) << number for number, bit in enumerate(bits))


def dataset(
    folder: Path,
    *,
    train: int,
    validation: int,
    test: int,
    shard_count: int,
    encoding: str = "jpeg",
    genres: tuple[str, ...] = GENRES,
) -> manifest.Dataset:
    """Writes a data set of three genres. Example n of the training split is film n; the other splits' films follow."""
    folder.mkdir(parents=True, exist_ok=True)
    splits, first = {}, 0
    for split, examples in {"train": train, "validation": validation, "test": test}.items():
        films = range(first, first + examples)
        first += examples
        names = [manifest.shard_name(split, number, shard_count) for number in range(shard_count)]
        written = [_write_shard(folder / name, films[number::shard_count], encoding) for number, name in enumerate(names)]
        counts = sum((label_of(film) for film in films), np.zeros(len(genres), int))
        splits[split] = manifest.Split(examples, dict(zip(genres, counts.tolist(), strict=True)), tuple(written))
    made = manifest.Dataset(epath.Path(folder), "", genres, _SIZE, _SIZE, encoding, splits)
    made = dataclasses.replace(made, fingerprint=manifest.fingerprint(made))
    (folder / manifest.DATASET_FILE).write_text(manifest.to_text(made))
    return made


def _write_shard(path: Path, films: range, encoding: str) -> manifest.Shard:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for film in films:
            image = image_of(film)
            encoded = tf.io.encode_jpeg(image, quality=95).numpy() if encoding == "jpeg" else image.tobytes()
            features = {
                "image/encoded": _bytes(encoded),
                "image/id": _bytes(film_id(film).encode()),
                "image/label": tf.train.Feature(int64_list=tf.train.Int64List(value=label_of(film))),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True))
    return manifest.Shard(path.name, len(films), path.stat().st_size, files.checksum(epath.Path(path)))


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
