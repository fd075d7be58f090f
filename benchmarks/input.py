"""Speed of the input pipeline: from training shards to batches of images, on one core.

    python -m benchmarks.input --posters=12000

The peers read the original poster files, as their users do, and resize them to the same size with their default bilinear kernel.
They are also measured on images that already have that size. Keras returns float32, all others uint8. All loading runs on one core,
so each rate is per core. With 12,000 films a training shard holds more films than a shuffle window.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app

from benchmarks.lib import affinity, comparison, films
from benchmarks.lib.comparison import OURS, Goal

if TYPE_CHECKING:  # Each measuring process imports only what it needs.
    import tensorflow as tf

    from trainer.dataset.manifest import Dataset

_HEIGHT, _WIDTH, _BATCH = 192, 128, 64
_SECONDS = 3.0  # The shortest time over which a rate is measured.
_FOR_EVER = 10**6  # Epochs.

Maker = Callable[..., Callable[[], float]]


def ours(data_dir: str) -> Callable[[], float]:
    """Returns what measures the input of trainer.task with default settings."""
    from trainer.config import TrainConfig
    from trainer.dataset import manifest, training_order
    from trainer.input import pipeline
    from trainer.process import allocation

    allocation.keep_freed_memory()  # As trainer.task does.
    dataset, job = manifest.load(data_dir), TrainConfig(data_dir=data_dir, job_dir="-")
    order = training_order.create(
        dataset, batch_size=_BATCH, open_shards=job.open_shards, shuffle_window=job.shuffle_window, seed=0
    )
    return _rate(iter(pipeline.training_dataset(dataset, order, replica_batch=_BATCH, first_step=0, epochs=_FOR_EVER)))


def unordered(data_dir: str) -> Callable[[], float]:
    """Returns what measures the same records through the same shuffle windows, in the order in which they arrive."""
    import tensorflow as tf

    from trainer.config import TrainConfig
    from trainer.dataset import manifest

    dataset, job = manifest.load(data_dir), TrainConfig(data_dir=data_dir, job_dir="-")
    records = (
        tf.data.Dataset.from_tensor_slices(dataset.shard_paths("train"))
        .shuffle(_FOR_EVER)
        .interleave(
            lambda path: tf.data.TFRecordDataset(path).shuffle(job.shuffle_window),
            cycle_length=job.open_shards,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        .repeat()
    )
    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": False}
    if dataset.encoding == "jpeg":
        batches = records.map(lambda record: _parsed(record, dataset), **parallel).batch(_BATCH)
    else:
        batches = records.batch(_BATCH).map(lambda records: _parsed(records, dataset), **parallel)
    return _rate(iter(batches.prefetch(tf.data.AUTOTUNE)))


def _parsed(records: "tf.Tensor", dataset: "Dataset") -> tuple["tf.Tensor", "tf.Tensor"]:
    import tensorflow as tf

    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/label": tf.io.FixedLenFeature([len(dataset.genres)], tf.int64),
    }
    if dataset.encoding == "jpeg":
        parsed = tf.io.parse_single_example(records, features)
        images = _decoded(parsed["image/encoded"])
    else:
        parsed = tf.io.parse_example(records, features)
        pixels = tf.io.decode_raw(parsed["image/encoded"], tf.uint8, fixed_length=_HEIGHT * _WIDTH * 3)
        images = tf.reshape(pixels, (_BATCH, _HEIGHT, _WIDTH, 3))
    return images, tf.cast(parsed["image/label"], tf.float32)


def _decoded(file: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.ensure_shape(tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"), (_HEIGHT, _WIDTH, 3))


def keras_folder(folder: str) -> Callable[[], float]:
    """Returns what measures keras.utils.image_dataset_from_directory."""
    import keras  # noqa: TID251, as a peer

    size = (_HEIGHT, _WIDTH)
    dataset = keras.utils.image_dataset_from_directory(folder, labels=None, image_size=size, batch_size=_BATCH, verbose=0)
    return _rate(iter(dataset.repeat()))


def torch_loader(folder: str) -> Callable[[], float]:
    """Returns what measures torch.utils.data.DataLoader with PIL, without worker processes: on one core they only cost time."""
    import torch

    paths = _files(folder)

    class Posters(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(_with_pil(paths[index]))

    loader = torch.utils.data.DataLoader(Posters(), batch_size=_BATCH, shuffle=True, drop_last=True)
    return _rate(itertools.chain.from_iterable(itertools.repeat(loader)))


def grain_loader(folder: str) -> Callable[[], float]:
    """Returns what measures Grain with PIL."""
    import grain

    dataset = grain.MapDataset.source(_files(folder)).shuffle(seed=0).repeat().map(_with_pil).batch(_BATCH)
    return _rate(iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))))


def _with_pil(path: str) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        rgb = image.convert("RGB")
        return np.array(rgb if rgb.size == (_WIDTH, _HEIGHT) else rgb.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR))


def decoding_alone(data_dir: str) -> Callable[[], float]:
    """Returns what measures decoding alone: TensorFlow decodes the shards' bytes from memory, in a map (faster than tf.map_fn)."""
    import tensorflow as tf

    from trainer.dataset import manifest

    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    records = tf.data.TFRecordDataset(manifest.load(data_dir).shard_paths("train")).take(16 * _BATCH)
    encoded = [tf.io.parse_single_example(record, features)["image/encoded"].numpy() for record in records]
    files = tf.data.Dataset.from_tensor_slices(encoded).repeat()
    return _rate(iter(files.map(_decoded, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH).prefetch(tf.data.AUTOTUNE)))


def counting(data_dir: str) -> Callable[[], float]:
    """Returns what measures reading alone: TensorFlow reads the records of the same shards and counts them."""
    import tensorflow as tf

    from trainer.dataset import manifest

    paths = manifest.load(data_dir).shard_paths("train")
    records = tf.data.Dataset.from_tensor_slices(paths).interleave(tf.data.TFRecordDataset, cycle_length=16).repeat()
    return _rate(iter(records.batch(_BATCH).map(tf.size)))


def _rate(batches: Iterator[object]) -> Callable[[], float]:
    def measure() -> float:
        began, count = time.monotonic(), 0
        while time.monotonic() < began + _SECONDS:
            next(batches)
            count += 1
        return count * _BATCH / (time.monotonic() - began)

    return measure


def _files(folder: str) -> list[str]:
    return sorted(map(str, Path(folder).iterdir()))


_PEERS: dict[str, Maker] = {
    "keras.utils.image_dataset_from_directory": keras_folder,
    "PyTorch's DataLoader, PIL": torch_loader,
    "Grain, PIL": grain_loader,
}
_DECODING, _COUNTING = "limit: TensorFlow decodes the bytes from memory", "limit: TensorFlow reads the records and counts them"


def compare(encoding: str, data_dir: str, originals: str, resized: str) -> None:
    """Prints the comparison for one encoding of the shards."""
    limit, limiting, of_peers, of_limit = {
        "jpeg": (_DECODING, decoding_alone, 2, 0.9),
        "raw": (_COUNTING, counting, 4, 0.7),
    }[encoding]
    on_resized = {f"{name}, of images resized before": (make, (resized,)) for name, make in _PEERS.items()}
    makers: dict[str, tuple[Maker, Sequence[object]]] = {OURS: (ours, (data_dir,))}
    makers |= {name: (make, (originals,)) for name, make in _PEERS.items()} | on_resized | {limit: (limiting, (data_dir,))}
    with comparison.on_cores(1):
        found = _measured(makers)
    goals = [Goal(tuple(_PEERS), least=of_peers), Goal((limit,), least=of_limit)]
    comparison.report(f"Input from {encoding} shards", "images a second and core", found, goals)


def compare_orders(encoding: str, data_dir: str) -> None:
    """Prints the cost of the deterministic order, on all cores."""
    other = "the same, unordered"
    found = _measured({OURS: (ours, (data_dir,)), other: (unordered, (data_dir,))})
    title = f"The deterministic order, {encoding} shards, {len(affinity.allowed_cores())} core(s)"
    comparison.report(title, "images a second", found, [Goal((other,), least=0.9)])


def _measured(makers: dict[str, tuple[Maker, Sequence[object]]]) -> dict[str, list[float]]:
    with comparison.apart(*makers.values()) as measures:
        return comparison.in_turn(dict(zip(makers, measures, strict=True)))


def _resize(files: Sequence[str], folder: Path) -> None:
    from trainer.images import decode

    folder.mkdir()
    for number, file in enumerate(files):
        pixels = decode.resize(decode.decode(Path(file).read_bytes(), height=_HEIGHT, width=_WIDTH), height=_HEIGHT, width=_WIDTH)
        (folder / f"{number}.jpg").write_bytes(decode.encode_jpeg(pixels))


def main(_: list[str]) -> None:
    """Prints the comparisons."""
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _resize(given.files(), folder / "resized")
        for encoding in ("jpeg", "raw"):
            films.prepare(given, folder / encoding, f"--encoding={encoding}")
            compare(encoding, str(folder / encoding), str(given.images), str(folder / "resized"))
            compare_orders(encoding, str(folder / encoding))


if __name__ == "__main__":
    app.run(main)
