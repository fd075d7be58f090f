"""Compares the recipes over several seeds: the published exercise, the network from scratch and the fine-tuned one.

Prepares the films at each recipe's size (they fall into the same splits), trains each recipe with each seed by the public
commands, and prints mean and range of the metrics of the test split, beside the published ones and the baselines:

    python benchmarks/accuracy.py --csv=films.csv --images=posters/ --output=accuracy/ --weights=efficientnet_lite2.weights.h5

The published exercise beside this project's network from scratch, once each:

    python benchmarks/accuracy.py --csv=films.csv --images=posters/ --output=accuracy/ --recipes=published,from_scratch --seeds=0

What is finished in --output is not done again: the same command resumes a comparison, and one with another seed extends it. Other
films get a folder of their own there.
"""

import dataclasses
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from trainer import config
from trainer.evaluation.report.text import baseline_name
from trainer.process import tables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A flag file of recipes/.

    Attributes:
      flagfile: path of the file of trainer.task flags.
      height: height of the prepared images in pixels, from the prepare command in the file's comments.
      width: width of the prepared images in pixels, from the same command.
    """

    flagfile: Path
    height: int
    width: int


_FOLDER = Path(__file__).resolve().parents[1] / "recipes"
_SIZE = re.compile(r"^# python -m trainer\.prepare .*--height=(\d+) --width=(\d+)$", re.MULTILINE)


def read_recipe(name: str) -> Recipe:
    """Reads recipes/NAME.flags.

    Args:
      name: the file's name without its suffix.

    Raises:
      ValueError: the file's comments have no prepare command with a height and a width.
    """
    flagfile = _FOLDER / f"{name}.flags"
    size = _SIZE.search(flagfile.read_text(encoding="utf-8"))
    if size is None:
        raise ValueError(f"{flagfile} has no comment with a trainer.prepare command that ends with --height=N --width=N: add one")
    return Recipe(flagfile, height=int(size[1]), width=int(size[2]))


RECIPES = ("published", "from_scratch", "fine_tuned")
_OLD_NAMES = {"scratch": "from_scratch", "pretrained": "fine_tuned"}

# The published results of the exercise, on a split of its own.
_PUBLISHED_METRICS = {"accuracy": 0.2385, "precision .5": 0.5751, "recall .5": 0.2015}

# What is printed, and where metrics.json has it.
METRICS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "accuracy": lambda metrics: metrics["accuracy"],
    "precision .5": lambda metrics: metrics["at_0.5"]["precision"],
    "recall .5": lambda metrics: metrics["at_0.5"]["recall"],
    "micro F1 .5": lambda metrics: metrics["at_0.5"]["f1_micro"],
    "micro F1 tuned": lambda metrics: metrics["tuned"]["f1_micro"],
    "macro F1 tuned": lambda metrics: metrics["tuned"]["f1_macro"],
    "mAP": lambda metrics: metrics["mean_average_precision"],
    "ECE": lambda metrics: metrics["calibration"]["after"]["expected_calibration_error"],
}

_CSV = flags.DEFINE_string("csv", None, "The CSV of films, in any form that trainer.prepare takes.", required=True)
_IMAGES = flags.DEFINE_string("images", None, "The folder or archive of the images, as trainer.prepare takes it.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "A local folder for data sets and jobs.", required=True)
_RECIPES = flags.DEFINE_list("recipes", list(RECIPES), f"The recipes to compare, some of {', '.join(RECIPES)}.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "The seeds of each recipe.")
_WEIGHTS = flags.DEFINE_string("weights", None, "The file of weights for the recipe fine_tuned.")
flags.register_validator(
    "recipes", lambda names: names and not set(names) - {*RECIPES, *_OLD_NAMES}, f"must be some of {', '.join(RECIPES)}"
)
flags.register_validator("seeds", lambda seeds: seeds and all(map(str.isdecimal, seeds)), "must be one or more whole numbers")


def _run(module: str, *options: str) -> None:
    """Runs a command of this project. Its output goes to stderr; if it fails, this process exits with its code."""
    code = subprocess.run((sys.executable, "-m", module, *options), check=False, stdout=sys.stderr).returncode
    if code:
        # A negative code is a signal: exit as a shell would.
        sys.exit(code if code > 0 else 128 - code)


def _data_dir(recipe: Recipe, output: Path) -> Path:
    """Prepares the films at a recipe's size, unless that is done, and returns the data set's path."""
    folder = output / f"data-{recipe.height}x{recipe.width}"
    if not (folder / "dataset.json").exists():
        size = (f"--height={recipe.height}", f"--width={recipe.width}")
        _run("trainer.prepare", f"--csv={_CSV.value}", f"--images={_IMAGES.value}", f"--output={folder}", *size)
    return folder


def _train(name: str, seed: str, output: Path) -> dict[str, Any]:
    """Trains a recipe with a seed to its end, unless that is done, and returns the content of its metrics.json."""
    recipe, job_dir = read_recipe(name), output / f"{name}-{seed}"
    weights = (f"--weights={_WEIGHTS.value}",) if name == "fine_tuned" else ()
    _run(
        "trainer.task",
        f"--flagfile={recipe.flagfile}",
        f"--data_dir={_data_dir(recipe, output)}",
        f"--job_dir={job_dir}",
        f"--seed={seed}",
        *weights,
    )
    metrics: dict[str, Any] = json.loads((job_dir / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _spread(values: Sequence[float]) -> str:
    """Returns the mean and, of several values, the lowest and the highest."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


def _table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a table of the recipes' metrics, beside the published ones and the baselines."""
    rows = [["", *METRICS]]
    rows.append(["as published", *(f"{_PUBLISHED_METRICS[name]:.3f}" if name in _PUBLISHED_METRICS else "" for name in METRICS)])
    any_job = next(iter(found.values()))[0]
    for baseline in any_job["baselines"].values():
        # A baseline predicts the same at every threshold, and has no scores.
        named = {"precision .5": "precision", "recall .5": "recall", "micro F1 .5": "f1_micro"}
        named |= {"micro F1 tuned": "f1_micro", "macro F1 tuned": "f1_macro"}
        rows.append([baseline_name(baseline), *(f"{baseline[named[name]]:.3f}" if name in named else "" for name in METRICS)])
    for recipe, jobs in found.items():
        rows.append([recipe, *(_spread([metric(values) for values in jobs]) for metric in METRICS.values())])
    return tables.aligned(rows)


def _new_names(names: Sequence[str]) -> list[str]:
    """Returns the recipes' names of today; each old one is named on stderr with its new name."""
    for name in names:
        if name in _OLD_NAMES:
            print(f"--recipes={name}: this recipe is now called {_OLD_NAMES[name]}", file=sys.stderr)
    return [_OLD_NAMES.get(name, name) for name in names]


def main(_: list[str]) -> None:
    """Trains what is not trained yet, and prints the comparison."""
    names = _new_names(_RECIPES.value)
    if "fine_tuned" in names and not _WEIGHTS.value:
        raise app.UsageError(
            "--weights is missing, but the recipe fine_tuned needs it: make the file with "
            "python -m trainer.model.convert_efficientnet_lite, or leave the recipe out, --recipes=published,from_scratch"
        )
    output = Path(_OUTPUT.value) / config.fingerprint([_CSV.value, _IMAGES.value])[:12]
    found = {name: [_train(name, seed, output) for seed in _SEEDS.value] for name in names}
    any_job = found[names[0]][0]
    print(f"{any_job['split']} split, {any_job['examples']} films; mean over the seeds {', '.join(_SEEDS.value)} (lowest–highest)")
    print(_table(found))


if __name__ == "__main__":
    app.run(main)
