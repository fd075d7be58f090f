"""How good each recipe is: the published exercise, the network from scratch and the pretrained one, over several seeds.

Prepares the films at each recipe's size, where they fall into the same splits, trains each recipe with each seed by the public
commands, and prints mean and spread of the figures of the test split, beside those that were published and the constants:

    python benchmarks/accuracy.py --csv=films.csv --images=posters/ --output=accuracy/ --weights=efficientnet_lite2.weights.h5

The published exercise beside this project's network from scratch, once each:

    python benchmarks/accuracy.py --csv=films.csv --images=posters/ --output=accuracy/ --recipes=published,scratch --seeds=0

What is finished in --output is not done again: a comparison that was stopped, or is to have one more seed, goes on by that command.
Other films get a folder of their own there.
"""

import dataclasses
import json
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
    """How a network is trained.

    Attributes:
      height: of the posters, pixels.
      width: of the posters, pixels.
      options: flags of trainer.task; the rest are its defaults.
    """

    height: int
    width: int
    options: tuple[str, ...]


# The report behind this project: a Keras CNN on small posters, with Keras's Adam, at one rate, and Keras's batch. It differs in its
# dropout, in the genres' first biases, which are their frequencies here, and in that the epoch with the best figure on the
# validation split is the one that counts.
_PUBLISHED = Recipe(
    64,
    64,
    (
        "--model=cnn",
        "--epochs=40",
        "--batch_size=32",
        "--optimizer=adam",
        "--learning_rate=1e-4",
        "--schedule=constant",
        "--warmup_epochs=0",
        "--augment=none",
    ),
)
_PUBLISHED_FIGURES = {"accuracy": 0.2385, "precision .5": 0.5751, "recall .5": 0.2015}

RECIPES = {
    "published": _PUBLISHED,
    "scratch": Recipe(96, 64, ("--model=resnet", "--augment=strong", "--epochs=60")),
    "pretrained": Recipe(
        240,
        168,
        (
            "--model=efficientnet_lite2",
            "--augment=strong",
            "--epochs=8",
            "--batch_size=32",
            "--backbone_rate=0.2",
            "--warmup_epochs=0.25",
        ),
    ),
}

# What is printed, and where metrics.json has it.
FIGURES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "accuracy": lambda metrics: metrics["accuracy"],
    "precision .5": lambda metrics: metrics["at_0.5"]["precision"],
    "recall .5": lambda metrics: metrics["at_0.5"]["recall"],
    "micro F1 .5": lambda metrics: metrics["at_0.5"]["f1_micro"],
    "micro F1 tuned": lambda metrics: metrics["tuned"]["f1_micro"],
    "macro F1 tuned": lambda metrics: metrics["tuned"]["f1_macro"],
    "mAP": lambda metrics: metrics["mean_average_precision"],
    "ECE": lambda metrics: metrics["calibration"]["after"]["expected_calibration_error"],
}

_CSV = flags.DEFINE_string("csv", None, "The CSV of films, as trainer.prepare takes it.", required=True)
_IMAGES = flags.DEFINE_string("images", None, "The folder or archive of their posters, likewise.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder of this machine for data sets and jobs.", required=True)
_RECIPES = flags.DEFINE_list("recipes", list(RECIPES), f"Which to compare, of {', '.join(RECIPES)}.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "The seeds of each recipe.")
_WEIGHTS = flags.DEFINE_string("weights", None, "--weights of the pretrained recipe.")
flags.register_validator("recipes", lambda names: names and not set(names) - set(RECIPES), f"Some of {', '.join(RECIPES)}.")
flags.register_validator("seeds", lambda seeds: seeds and all(map(str.isdecimal, seeds)), "One or more whole numbers.")


def _run(module: str, *options: str) -> None:
    """Runs a command of this project; its progress is this one's, and where it fails its end too."""
    code = subprocess.run((sys.executable, "-m", module, *options), check=False, stdout=sys.stderr).returncode
    if code:
        # Of one that a signal has ended, what a shell would say.
        sys.exit(code if code > 0 else 128 - code)


def _data_dir(recipe: Recipe, output: Path) -> Path:
    """Prepares the films at a recipe's size, unless that has been done."""
    folder = output / f"data-{recipe.height}x{recipe.width}"
    if not (folder / "dataset.json").exists():
        size = (f"--height={recipe.height}", f"--width={recipe.width}")
        _run("trainer.prepare", f"--csv={_CSV.value}", f"--images={_IMAGES.value}", f"--output={folder}", *size)
    return folder


def _train(name: str, seed: str, output: Path) -> dict[str, Any]:
    """Trains a recipe with a seed to its end, unless that has been done, and returns what its metrics.json holds."""
    recipe, job_dir = RECIPES[name], output / f"{name}-{seed}"
    weights = (f"--weights={_WEIGHTS.value}",) if name == "pretrained" else ()
    _run(
        "trainer.task",
        f"--data_dir={_data_dir(recipe, output)}",
        f"--job_dir={job_dir}",
        f"--seed={seed}",
        *recipe.options,
        *weights,
    )
    metrics: dict[str, Any] = json.loads((job_dir / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _spread(values: Sequence[float]) -> str:
    """The mean and, of several, the lowest and the highest."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


def _table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The figures of recipes, by their names, beside the published ones and the constants."""
    rows = [["", *FIGURES]]
    rows.append(["as published", *(f"{_PUBLISHED_FIGURES[name]:.3f}" if name in _PUBLISHED_FIGURES else "" for name in FIGURES)])
    any_job = next(iter(found.values()))[0]
    for baseline in any_job["baselines"].values():
        # A constant says the same at every threshold, and has no scores.
        named = {"precision .5": "precision", "recall .5": "recall", "micro F1 .5": "f1_micro"}
        named |= {"micro F1 tuned": "f1_micro", "macro F1 tuned": "f1_macro"}
        rows.append([baseline_name(baseline), *(f"{baseline[named[name]]:.3f}" if name in named else "" for name in FIGURES)])
    for recipe, jobs in found.items():
        rows.append([recipe, *(_spread([figure(metrics) for metrics in jobs]) for figure in FIGURES.values())])
    return tables.aligned(rows)


def main(_: list[str]) -> None:
    """Trains what is not trained yet, and prints the comparison."""
    if "pretrained" in _RECIPES.value and not _WEIGHTS.value:
        raise app.UsageError(
            "--weights is missing, with which the recipe pretrained begins: make the file with "
            "trainer/model/convert_efficientnet_lite.py, or leave the recipe out, --recipes=published,scratch"
        )
    output = Path(_OUTPUT.value) / config.fingerprint([_CSV.value, _IMAGES.value])[:12]
    found = {name: [_train(name, seed, output) for seed in _SEEDS.value] for name in _RECIPES.value}
    (any_job, *_), *_ = found.values()
    print(f"{any_job['split']} split, {any_job['examples']} films; mean over the seeds {', '.join(_SEEDS.value)} (lowest–highest)")
    print(_table(found))


if __name__ == "__main__":
    app.run(main)
