"""How much memory a worker takes on a data set, and on one ten times as large.

    python -m benchmarks.memory

Both hold more films than the shuffle windows of the open shards do, which are what is kept in memory. Every film has the same
picture: only its size matters here.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import comparison
from benchmarks.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "cnn", ("cnn", "resnet"), "The network.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds that count.")

# A shard of the default order keeps 512 films; these hold a few more, as shards of 100 MB do.
_FILMS_A_SHARD, _SHARDS, _TIMES, _HELD_OUT = 600, 16, 10, 64
_HEIGHT, _WIDTH = 96, 64
_STEPS = 30


def write(folder: Path, shard_count: int) -> None:
    """Writes a data set of shards of one film, again and again."""
    import tensorflow as tf
    from etils import epath

    from trainer.data import images, shards

    picture = images.encode_jpeg(np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8))

    def record(film: int) -> bytes:
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture])),
            "image/id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(film).encode()])),
            "image/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[film % 2, 1 - film % 2])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    folder.mkdir()
    splits = {}
    for split, count, films in (("train", shard_count, _FILMS_A_SHARD), ("validation", 1, _HELD_OUT), ("test", 1, _HELD_OUT)):
        written = []
        for number in range(count):
            path = folder / shards.shard_name(split, number, count)
            with tf.io.TFRecordWriter(str(path)) as writer:
                for film in range(films):
                    writer.write(record(film))
            written.append(shards.Shard(path.name, films, path.stat().st_size, shards.checksum(epath.Path(path))))
        half = films * count // 2
        splits[split] = shards.Split(films * count, {"a": half, "b": half}, tuple(written))
    dataset = shards.Dataset(epath.Path(folder), "", ("a", "b"), _HEIGHT, _WIDTH, "jpeg", splits)
    dataset = dataclasses.replace(dataset, fingerprint=shards.fingerprint(dataset))
    (folder / shards.DATASET_FILE).write_text(shards.to_text(dataset))


def peak(data_dir: Path) -> float:
    """Trains, evaluates and exports; returns the most memory that the process ever held, in MiB."""
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("w+") as log:
        command = (
            sys.executable,
            "-m",
            "trainer.task",
            f"--data_dir={data_dir}",
            f"--job_dir={name}/job",
            f"--model={_MODEL.value}",
        )
        process = subprocess.Popen((*command, f"--max_steps={_STEPS}"), stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-3000:])
        return usage.ru_maxrss / 1024


def main(_: list[str]) -> None:
    """Prints the comparison."""
    small = f"on a tenth of the films, {_SHARDS * _FILMS_A_SHARD:,}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "large", _TIMES * _SHARDS)
        write(folder / "small", _SHARDS)
        contenders = {OURS: functools.partial(peak, folder / "large"), small: functools.partial(peak, folder / "small")}
        found = comparison.in_turn(contenders, repeats=_REPEATS.value)
    title = f"A worker's memory on {_TIMES * _SHARDS * _FILMS_A_SHARD:,} films, {_MODEL.value}"
    comparison.report(title, "MiB at most", found, [Goal((small,), most=1.05)])


if __name__ == "__main__":
    app.run(main)
