"""Posters to measure with: drawn ones, as large and as costly to decode as real ones, unless --csv and --images name others."""

import contextlib
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

_CSV = flags.DEFINE_string("csv", None, "Films, as trainer.prepare takes them; by default some are drawn.")
_IMAGES = flags.DEFINE_string("images", None, "The folder of their posters.")
_FILMS = flags.DEFINE_integer("films", 2000, "How many are drawn.", lower_bound=100)

# Those of a large public collection of posters: 300 × 442 pixels in 32 KB.
_HEIGHT, _WIDTH, _QUALITY, _GRAIN = 442, 300, 88, 5
_GENRES = ("Action", "Comedy", "Drama", "Romance")


@dataclass(frozen=True)
class Films:
    """A CSV, and the folder of the pictures that it names."""

    csv: Path
    images: Path

    def files(self) -> list[str]:
        """Returns the paths of the pictures."""
        return sorted(str(path) for path in self.images.rglob("*.jpg"))


@contextlib.contextmanager
def films() -> Iterator[Films]:
    """The films that the flags name, or drawn ones, which are gone when the block ends."""
    if _CSV.value and _IMAGES.value:
        yield Films(Path(_CSV.value), Path(_IMAGES.value))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield draw(Path(folder), _FILMS.value)


def draw(folder: Path, count: int) -> Films:
    """Draws soft fields of colour under grain: what decodes as slowly as a poster, and is like no other."""
    (folder / "posters").mkdir(parents=True)
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "genres"))
        for film in range(count):
            random = np.random.default_rng(film)
            fields = Image.fromarray(random.integers(0, 256, (12, 8, 3), np.uint8))
            smooth = np.asarray(fields.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32)
            grain = random.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1)).astype(np.float32)
            picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
            picture.save(folder / "posters" / f"tt{film:07d}.jpg", quality=_QUALITY)
            writer.writerow((f"tt{film:07d}", "|".join(random.choice(_GENRES, random.integers(1, 3), replace=False))))
    return Films(folder / "films.csv", folder / "posters")


def prepare(films: Films, output: Path, *options: str) -> None:
    """Prepares films with trainer.prepare, in a process of its own."""
    command = (sys.executable, "-m", "trainer.prepare", f"--csv={films.csv}", f"--images={films.images}", f"--output={output}")
    subprocess.run((*command, *options), check=True, capture_output=True)
