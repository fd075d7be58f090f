"""What it costs that a job may be killed at any moment: backups, and the guard.

Trains the same few steps again and again, in turn with a backup after each step, with backups as they are by default, and without a
guard, and compares the images trained on in a second:

    python benchmarks/fault_tolerance.py --data_dir=dataset/ --model=resnet
"""

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from trainer.config import TrainConfig

_DATA_DIR = flags.DEFINE_string("data_dir", None, "A data set that trainer.prepare made.", required=True)
_MODEL = flags.DEFINE_enum("model", "resnet", ("cnn", "resnet"), "The network.")
_STEPS = flags.DEFINE_integer("steps", 30, "Steps of a run.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each kind.")

_BATCH = 64
_DEFAULT = TrainConfig(data_dir="-", job_dir="-").backup_steps


def images_per_second(module: str, *options: str) -> float:
    """Trains a few steps and returns how fast."""
    with tempfile.TemporaryDirectory() as job_dir:
        command = (sys.executable, "-m", module, f"--data_dir={_DATA_DIR.value}", f"--job_dir={job_dir}/job")
        steps = (f"--model={_MODEL.value}", f"--batch_size={_BATCH}", f"--max_steps={_STEPS.value}", *options)
        errors = subprocess.run(
            (*command, *steps), capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        ).stderr
    (rate,) = re.findall(r"([\d.]+) images/s", errors)
    return float(rate)


def main(_: list[str]) -> None:
    """Prints the comparison."""
    kinds = {
        "no guard": ("trainer.task",),
        "guard": ("trainer.guard",),
        "guard, a backup after each step": ("trainer.guard", "--backup_steps=1"),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _repeat in range(_REPEATS.value):
        for name, command in kinds.items():
            rates[name].append(images_per_second(*command))
    for name, found in rates.items():
        print(f"{name:32} {statistics.median(found):8.1f} images/s  ({min(found):.1f} to {max(found):.1f})")
    ratios = [with_guard / without for with_guard, without in zip(rates["guard"], rates["no guard"], strict=True)]
    print(f"guard / no guard                 {statistics.median(ratios):8.3f}           ({min(ratios):.3f} to {max(ratios):.3f})")
    # Without --backup_steps=1 a run is backed up once, after its last step.
    step, backed_up = (_BATCH / statistics.median(rates[name]) for name in ("guard", "guard, a backup after each step"))
    backup = (backed_up - step) * _STEPS.value / (_STEPS.value - 1)
    step -= backup / _STEPS.value
    print(f"a step {step:.3f} s, a backup {backup:.3f} s: {backup / _DEFAULT / step:.2%} of the time at --backup_steps={_DEFAULT}")


if __name__ == "__main__":
    app.run(main)
