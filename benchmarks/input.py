"""How fast the input is: from training shards to batches of uint8 pictures, on one core.

    python -m benchmarks.input [--csv=films.csv --images=posters/]

The peers read what their users have, the posters as they are, and make of them pictures of the same size; on pictures that are of
that size already they are measured too. Everything that loads runs on one core: a rate is one of a core.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import comparison, films
from benchmarks.comparison import OURS, Goal

_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds that count.")

_HEIGHT, _WIDTH, _BATCH = 192, 128, 64
# After a rest there are batches that were loaded meanwhile: they are taken first, and not counted.
_AHEAD, _COUNTED = 25, 40
_FOR_EVER = 10**6  # Epochs.


def ours(data_dir: str, *, deterministic: bool = True) -> Callable[[], float]:
    """The input of trainer.task, at its defaults."""
    import tensorflow as tf

    from trainer.config import TrainConfig
    from trainer.data import pipeline, shards

    dataset, job = shards.load(data_dir), TrainConfig(data_dir=data_dir, job_dir="-")
    order = pipeline.training_order(
        dataset, batch_size=_BATCH, open_shards=job.open_shards, shuffle_window=job.shuffle_window, seed=0
    )
    batches = pipeline.training_dataset(dataset, order, replica_batch=_BATCH, first_step=0, epochs=_FOR_EVER)
    if not deterministic:
        options = tf.data.Options()
        options.deterministic = False
        batches = batches.with_options(options)
    return _rate(iter(batches))


def unordered(data_dir: str) -> Callable[[], float]:
    """The same, but whatever record is there first comes first."""
    return ours(data_dir, deterministic=False)


def keras_folder(folder: str) -> Callable[[], float]:
    """keras.utils.image_dataset_from_directory."""
    import keras  # noqa: TID251, as a peer

    dataset = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(_HEIGHT, _WIDTH), batch_size=_BATCH, verbose=0
    )
    return _rate(iter(dataset.repeat()))


def torch_loader(folder: str) -> Callable[[], float]:
    """torch.utils.data.DataLoader with PIL; on one core, where a process of its own for the decoding only costs."""
    import numpy as np
    import torch
    from PIL import Image

    paths = _jpegs(folder)

    class Posters(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, place: int) -> Any:
            with Image.open(paths[place]) as image:
                return torch.from_numpy(np.array(image.convert("RGB").resize((_WIDTH, _HEIGHT))))

    loader = torch.utils.data.DataLoader(Posters(), batch_size=_BATCH, shuffle=True, drop_last=True)
    return _rate(itertools.chain.from_iterable(itertools.repeat(loader)))


def grain_loader(folder: str) -> Callable[[], float]:
    """Grain with PIL."""
    import grain
    import numpy as np
    from PIL import Image

    def load(path: str) -> np.ndarray:
        with Image.open(path) as image:
            return np.array(image.convert("RGB").resize((_WIDTH, _HEIGHT)))

    dataset = grain.MapDataset.source(_jpegs(folder)).shuffle(seed=0).repeat().map(load).batch(_BATCH)
    return _rate(iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))))


def decoding_alone(data_dir: str) -> Callable[[], float]:
    """TensorFlow decodes the bytes of the same shards from memory."""
    import tensorflow as tf

    from trainer.data import pipeline, shards

    dataset = shards.load(data_dir)
    features = pipeline._features(dataset)
    records = tf.data.TFRecordDataset(dataset.shard_paths("train")).take(16 * _BATCH)
    encoded = [tf.io.parse_single_example(record, features)["image/encoded"] for record in records]

    @tf.function
    def decode(files: tf.Tensor) -> tf.Tensor:
        def one(file: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"), (_HEIGHT, _WIDTH, 3))

        return tf.map_fn(one, files, fn_output_signature=tf.uint8)

    batches = [tf.stack(encoded[start : start + _BATCH]) for start in range(0, len(encoded), _BATCH)]
    return _rate(map(decode, itertools.cycle(batches)))


def counting(data_dir: str) -> Callable[[], float]:
    """TensorFlow reads the records of the same shards, and counts them."""
    import tensorflow as tf

    from trainer.data import shards

    paths = shards.load(data_dir).shard_paths("train")
    records = tf.data.Dataset.from_tensor_slices(paths).interleave(tf.data.TFRecordDataset, cycle_length=16).repeat()
    return _rate(iter(records.batch(_BATCH).map(tf.size)))


def _rate(batches: Iterator[object]) -> Callable[[], float]:
    def measure() -> float:
        for _ in itertools.islice(batches, _AHEAD):
            pass
        began = time.monotonic()
        for _ in itertools.islice(batches, _COUNTED):
            pass
        return _COUNTED * _BATCH / (time.monotonic() - began)

    return measure


def _jpegs(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.jpg"))


_PEERS = {
    "keras.utils.image_dataset_from_directory": keras_folder,
    "PyTorch's DataLoader, PIL": torch_loader,
    "Grain, PIL": grain_loader,
}
_DECODING, _COUNTING = "limit: TensorFlow decodes the bytes from memory", "limit: TensorFlow reads the records and counts them"


def compare(encoding: str, data_dir: str, originals: str, resized: str) -> None:
    """Prints the comparison for one encoding of the shards."""
    limit = {"jpeg": (_DECODING, decoding_alone), "raw": (_COUNTING, counting)}[encoding]
    makers: dict[str, tuple[Callable[..., Callable[[], float]], Sequence[object]]] = {OURS: (ours, (data_dir,))}
    makers |= {name: (make, (originals,)) for name, make in _PEERS.items()}
    makers |= {f"{name}, of pictures resized before": (make, (resized,)) for name, make in _PEERS.items()}
    makers[limit[0]] = (limit[1], (data_dir,))
    with comparison.on_cores(1):
        found = _measured(makers)
    goals = [
        Goal(tuple(_PEERS), least={"jpeg": 2, "raw": 4}[encoding]),
        Goal((limit[0],), least={"jpeg": 0.9, "raw": 0.7}[encoding]),
    ]
    comparison.report(f"Input from {encoding} shards", "images a second and core", found, goals)


def compare_orders(encoding: str, data_dir: str) -> None:
    """Prints what the deterministic order costs, on all cores."""
    other = "the same, unordered"
    found = _measured({OURS: (ours, (data_dir,)), other: (unordered, (data_dir,))})
    title = f"The deterministic order, {encoding} shards, {len(os.sched_getaffinity(0))} core(s)"
    comparison.report(title, "images a second", found, [Goal((other,), least=0.9)])


def _measured(makers: dict[str, tuple[Callable[..., Callable[[], float]], Sequence[object]]]) -> dict[str, list[float]]:
    with comparison.apart(*makers.values()) as measures:
        return comparison.in_turn(dict(zip(makers, measures, strict=True)), repeats=_REPEATS.value)


def _resize(files: Sequence[str], folder: Path) -> None:
    from trainer.data import images

    folder.mkdir()
    for place, file in enumerate(files):
        pixels = images.resize(images.decode(Path(file).read_bytes(), height=_HEIGHT, width=_WIDTH), height=_HEIGHT, width=_WIDTH)
        (folder / f"{place}.jpg").write_bytes(images.encode_jpeg(pixels))


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
