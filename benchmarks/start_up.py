"""Start-up times: a fresh job's first step, and the launcher's dry run.

python -m benchmarks.start_up
"""

import functools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from absl import app

from benchmarks.lib import comparison, films, steps
from benchmarks.lib.comparison import OURS

_MODEL = "resnet"


def first_step(data_dir: Path) -> float:
    """Returns the seconds from a fresh job's start to the end of its first step."""
    with tempfile.TemporaryDirectory() as name, steps.job(steps.train(data_dir, f"{name}/job", f"--model={_MODEL}")) as job:
        return job.steps(1)[0] - job.began


def whole(*arguments: str) -> float:
    """Returns the seconds from a Python program's start to its end."""
    began = time.monotonic()
    comparison.run((sys.executable, *arguments))
    return time.monotonic() - began


def main(_: list[str]) -> None:
    """Prints the comparisons."""
    importing, nothing = "python -c 'import tensorflow'", "python -c pass"
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        job = {OURS: functools.partial(first_step, data_dir), importing: functools.partial(whole, "-c", "import tensorflow")}
        found = comparison.in_turn(job)
    comparison.report(f"A fresh job's first step, {_MODEL}", "seconds", found)
    beyond = [ours - 2 * theirs for ours, theirs in zip(found[OURS], found[importing], strict=True)]
    _say_whether("the first step, less twice the import", statistics.median(beyond), 3)
    launch = (
        *("-m", "launch", "--dry_run", "--target=kubernetes", "--name=posters", "--image=registry.example/trainer:1"),
        *("--", "--data_dir=gs://bucket/data", "--job_dir=gs://bucket/job"),
    )
    found = comparison.in_turn({OURS: functools.partial(whole, *launch), nothing: functools.partial(whole, "-c", "pass")})
    comparison.report("launch --dry_run", "seconds", found)
    _say_whether("launch --dry_run", statistics.median(found[OURS]), 1)


def _say_whether(what: str, seconds: float, bound: float) -> None:
    print(f"- {what}: {seconds:.2f} s, to be at most {bound:g} s: {'reached' if seconds <= bound else 'NOT reached'}")


if __name__ == "__main__":
    app.run(main)
