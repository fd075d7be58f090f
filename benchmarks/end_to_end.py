"""What of the device's own speed a training on real input reaches: a job, and the same with --synthetic_data.

python -m benchmarks.end_to_end [--csv=films.csv --images=posters/]
"""

import functools
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks import comparison, films, steps
from benchmarks.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "cnn", ("cnn", "resnet"), "The network: the smaller it is, the harder for the input.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds that count.")

_BATCH, _WARM_UP, _STEPS = 64, 5, 25


def rate(data_dir: Path, *options: str) -> float:
    """Trains, and returns images a second once it runs."""
    with tempfile.TemporaryDirectory() as name:
        command = (
            sys.executable,
            "-m",
            "trainer.task",
            f"--data_dir={data_dir}",
            f"--job_dir={name}/job",
            f"--batch_size={_BATCH}",
        )
        with steps.job((*command, f"--model={_MODEL.value}", "--epochs=100", *options)) as job:
            return steps.images_per_second(job.steps(_STEPS), batch_size=_BATCH, first=_WARM_UP)


def main(_: list[str]) -> None:
    """Prints the comparison."""
    other = "--synthetic_data"
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        contenders = {OURS: functools.partial(rate, data_dir), other: functools.partial(rate, data_dir, "--synthetic_data")}
        found = comparison.in_turn(contenders, repeats=_REPEATS.value)
    comparison.report(f"Training {_MODEL.value} end to end", "images a second", found, [Goal((other,), least=0.97)])


if __name__ == "__main__":
    app.run(main)
