"""Posters to measure with: drawn here, with the size and the decoding cost of real ones."""

import contextlib
import csv
import dataclasses
import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.lib import comparison

_POSTERS = flags.DEFINE_integer("posters", 2000, "Number of posters to draw.", lower_bound=100)

# As in a large public collection of posters: 300 × 442 pixels in 32 KB.
_HEIGHT, _WIDTH, _QUALITY, _GRAIN = 442, 300, 88, 5
_GENRES = ("Action", "Comedy", "Drama", "Romance")


@dataclasses.dataclass(frozen=True)
class Films:
    """A CSV, and the folder of the images that it names."""

    csv: Path
    images: Path

    def files(self) -> list[str]:
        """Returns the paths of the images."""
        return sorted(map(str, self.images.iterdir()))


@contextlib.contextmanager
def films() -> Iterator[Films]:
    """Draws `--posters` films, and deletes them when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        yield draw(Path(folder), _POSTERS.value)


def draw(folder: Path, count: int) -> Films:
    """Draws soft fields of colour under grain, which decode as slowly as posters and are all different."""
    posters = folder / "posters"
    posters.mkdir(parents=True)
    names = [f"tt{film:07d}" for film in range(count)]
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "genres"))
        for film, name in enumerate(names):
            random = np.random.default_rng((1, film))
            writer.writerow((name, "|".join(random.choice(_GENRES, random.integers(1, 3), replace=False))))
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.starmap(_draw, zip(itertools.count(), [str(posters / f"{name}.jpg") for name in names], strict=False), chunksize=64)
    return Films(folder / "films.csv", posters)


def _draw(seed: int, path: str) -> None:
    random = np.random.default_rng(seed)
    fields = Image.fromarray(random.integers(0, 256, (12, 8, 3), np.uint8))
    smooth = np.asarray(fields.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32)
    grain = random.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1)).astype(np.float32)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=_QUALITY)


def prepare(films: Films, output: Path, *options: str) -> None:
    """Prepares films with trainer.prepare."""
    command = (sys.executable, "-m", "trainer.prepare", f"--csv={films.csv}", f"--images={films.images}", f"--output={output}")
    comparison.run((*command, *options))
