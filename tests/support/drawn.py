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


@dataclasses.dataclass(eq=False)
class FilmNumber:
    """Stands in for a network: a film's logits are its number, which its image shows, times `WEIGHTS` and a gain.

    Attributes:
      gain: a variable, as a network's weights are.
      traced: the number of images in a batch, once for each time that TensorFlow has traced the network.
      is_mirrored: as a `Network` has it.
    """

    gain: tf.Variable = dataclasses.field(default_factory=lambda: tf.Variable(1.0))
    traced: list[int | None] = dataclasses.field(default_factory=list)
    is_mirrored: bool = False

    WEIGHTS = np.array([0.5, -0.25, 2.0], np.float32)

    def __call__(self, features: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Returns the logits of a batch, float32 [b, 3]."""
        assert not training
        self.traced.append(features["image"].shape[0])
        bits = tf.reshape(features["image"][:, _BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK, 0] > 127, [-1, 16])
        film = tf.reduce_sum(tf.cast(bits, tf.float32) * 2.0 ** tf.range(16, dtype=tf.float32), axis=1, keepdims=True)
        return self.gain * film * self.WEIGHTS


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
