"""How much memory a worker uses on a data set, and on one ten times as large.

    python -m benchmarks.memory

Both hold more films than the shuffle windows of the open shards, which are kept in memory. Both are read beyond the shards that are
opened first. Validation and test are ten times as large too. All films share one image, because only its size matters here.
"""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from absl import app

from benchmarks.lib import comparison, one_image, steps
from benchmarks.lib.comparison import OURS, Goal

# With the default order, each shard keeps 512 films in memory. These shards hold a few more, as shards of 100 MB do.
_FILMS_A_SHARD, _TIMES = 600, 10
_SHARDS = {"train": 16, "validation": 2, "test": 2}
_MODEL, _HEIGHT, _WIDTH, _BATCH = "cnn", 48, 32, 64
# Enough steps to exhaust the first open shards, so that others replace them.
_STEPS = _FILMS_A_SHARD * _SHARDS["train"] * 3 // 2 // _BATCH


def write(folder: Path, times: int) -> None:
    """Writes a data set that is `times` times as large as the smallest one."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    counts = {split: times * count for split, count in _SHARDS.items()}
    one_image.write(folder, pixels, counts, films_a_shard=_FILMS_A_SHARD)


def peak(data_dir: Path) -> float:
    """Trains, evaluates and exports; returns the process's peak memory in MiB."""
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("w+") as log:
        options = (f"--model={_MODEL}", f"--batch_size={_BATCH}", f"--max_steps={_STEPS}", "--epochs=2")
        process = subprocess.Popen(steps.train(data_dir, f"{name}/job", *options), stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-3000:])
        return usage.ru_maxrss / 1024


def main(_: list[str]) -> None:
    """Prints the comparison."""
    small = "on a tenth of the films"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "large", _TIMES)
        write(folder / "small", 1)
        contenders = {OURS: functools.partial(peak, folder / "large"), small: functools.partial(peak, folder / "small")}
        found = comparison.in_turn(contenders)
    title = f"A worker's memory on {_TIMES * _SHARDS['train'] * _FILMS_A_SHARD:,} training films, {_MODEL}"
    comparison.report(title, "MiB at most", found, [Goal((small,), most=1.05)])


if __name__ == "__main__":
    app.run(main)
