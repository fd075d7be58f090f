"""Memory and speed of a worker that reads 16 shards from Cloud Storage at once, by the size of TensorFlow's read-ahead blocks.

Writes shards to the tests' storage server on this machine, and reads the same batches with each setting in turn, each time in a
separate process that does nothing else. For comparison it also reads them from the disk:

    python -m benchmarks.storage_memory
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.lib import one_image
from tests.fakes.storage.server import Storage, storage
from trainer.images import decode

_SHARD_MB = flags.DEFINE_integer("shard_mb", 72, "Size of a shard, 10^6 bytes. More than the 64 MiB that TensorFlow reads ahead.")
_LATENCY = flags.DEFINE_float("latency", 0.05, "Seconds until Cloud Storage answers.")
_BATCHES = flags.DEFINE_integer("batches", 150, "Batches of 64 images to read.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs with each setting.")
_READ = flags.DEFINE_string("read", None, "Internal: read this data set, and print bytes and images per second.")

_SHARDS = 16
_BLOCKS = {"64 MiB, TensorFlow's own": "64", "16 MiB, the default here": "16", "4 MiB": "4", "1 MiB": "1"}


def write(folder: Path) -> None:
    """Writes a data set whose image is noise, with the JPEG size of real posters."""
    small = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((128, 192), Image.Resampling.BICUBIC))
    size = len(decode.encode_jpeg(pixels))
    count = _SHARD_MB.value * 10**6 // size
    one_image.write(folder, pixels, {"train": _SHARDS}, films_a_shard=count)
    print(f"{_SHARDS} shards of {count * size / 1e6:.0f} MB of images, {count * _SHARDS:,} of {size:,} bytes each")


def read(path: str) -> None:
    """Reads batches; prints the process's peak memory before and after, in bytes, and the images per second."""
    from trainer.dataset import manifest, training_order
    from trainer.input import pipeline

    dataset = manifest.load(path)
    order = training_order.create(dataset, batch_size=64, open_shards=_SHARDS, shuffle_window=512, seed=0)
    inputs = pipeline.training_dataset(dataset, order, replica_batch=64, first_step=0, epochs=1)
    before = _peak()
    began = time.monotonic()
    for _ in inputs.take(_BATCHES.value):
        pass
    print(before, _peak(), _BATCHES.value * 64 / (time.monotonic() - began))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(path: str, environment: dict[str, str]) -> tuple[float, float]:
    """Reads in a separate process; returns the growth of its memory in MiB, and the images per second."""
    command = (sys.executable, "-m", "benchmarks.storage_memory", f"--read={path}", f"--batches={_BATCHES.value}")
    out = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout
    before, after, rate = map(float, out.split())
    return (after - before) / 2**20, rate


def compare(folder: Path, server: Storage) -> None:
    """Prints the comparison."""
    kinds: dict[str, tuple[str, dict[str, str]]] = {"from the disk": (str(folder), {})}
    for name, block in _BLOCKS.items():
        kinds[name] = ("gs://posters/data", server.environment | {"GCS_READ_CACHE_BLOCK_SIZE_MB": block})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _repeat in range(_REPEATS.value):
        for name, (path, environment) in kinds.items():
            found[name].append(measured(path, environment))
    print(f"read ahead, a file             memory of reading   images/s   (answers after {_LATENCY.value:g} s)")
    for name, results in found.items():
        memory, rate = (statistics.median(values) for values in zip(*results, strict=True))
        print(f"{name:30} {memory:13,.0f} MiB {rate:10,.0f}")


def main(_: list[str]) -> None:
    """Prints the comparison, or only reads."""
    if _READ.value:
        read(_READ.value)
        return
    with tempfile.TemporaryDirectory() as name, storage() as server:
        folder = Path(name)
        write(folder)
        server.bucket("posters")
        server.upload_folder(folder, "gs://posters/data")
        server.latency(_LATENCY.value)
        compare(folder, server)


if __name__ == "__main__":
    app.run(main)
