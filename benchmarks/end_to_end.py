"""Training speed on real input, relative to the same job with --synthetic_data, which shows the speed of the device alone.

python -m benchmarks.end_to_end
python -m benchmarks.end_to_end --posters=12000 --steps=140    # Where a step takes milliseconds.
"""

import functools
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks.lib import comparison, films, steps
from benchmarks.lib.comparison import OURS, Goal

_STEPS = flags.DEFINE_integer("steps", 24, "Steps of a run. Must be fewer than an epoch has.")

# The fastest network demands the most of the input pipeline.
_MODEL, _BATCH, _WARM_UP = "cnn", 64, 4


def rate(data_dir: Path, *options: str) -> float:
    """Trains, and returns the images per second after the warm-up."""
    with tempfile.TemporaryDirectory() as name:
        command = steps.train(data_dir, f"{name}/job", f"--model={_MODEL}", f"--batch_size={_BATCH}", *options)
        with steps.job(command) as job:
            return steps.images_per_second(job.steps(_STEPS.value), batch_size=_BATCH, first=_WARM_UP)


def main(_: list[str]) -> None:
    """Prints the comparison."""
    from trainer.dataset import manifest

    other = "--synthetic_data"
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        if _STEPS.value * _BATCH > manifest.load(data_dir).split("train").examples:
            raise ValueError(f"--steps={_STEPS.value} exceeds an epoch, and validation would be timed too: raise --posters")
        contenders = {OURS: functools.partial(rate, data_dir), other: functools.partial(rate, data_dir, "--synthetic_data")}
        found = comparison.in_turn(contenders)
    comparison.report(f"Training {_MODEL} end to end", "images a second", found, [Goal((other,), least=0.97)])


if __name__ == "__main__":
    app.run(main)
