"""Evaluates a finished job on any split of any data set: `python -m trainer.evaluate --job_dir=DIR --data_dir=DIR`."""

import logging
from typing import Any

from absl import flags
from etils import epath

from trainer import config
from trainer.cluster import strategy as strategies
from trainer.cluster import tf_errors
from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.evaluation import evaluate
from trainer.evaluation.predict_split import SplitPredictor
from trainer.evaluation.report import text
from trainer.job import job_dir
from trainer.model import networks
from trainer.process import allocation, entry, log
from trainer.storage import files
from trainer.training.checkpoints import restore_best

_log = logging.getLogger("trainer.evaluate")

_JOB_DIR = flags.DEFINE_string("job_dir", None, "The directory of a finished job.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "A data set that trainer.prepare made.")
_SPLIT = flags.DEFINE_enum("split", "test", manifest.SPLITS, "The split to evaluate on.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Where the figures and the report go; default: JOB_DIR/evaluation-SPLIT, and for another data set than the job's"
    " JOB_DIR/evaluation-SPLIT-FINGERPRINT.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures at a time, over all replicas together.", lower_bound=1)
_STRATEGY = flags.DEFINE_enum("strategy", "auto", ("auto", "one_device", "mirrored"), "The tf.distribute strategy.")


def main(arguments: list[str]) -> None:
    """Rebuilds the job's best network and evaluates it."""
    for flag in (_JOB_DIR, _DATA_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing: name a folder")
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag of trainer.evaluate: options are written --name=value")
    log.configure("text")
    allocation.keep_freed_memory()
    directory, split = files.from_flag("--job_dir", _JOB_DIR.value), _SPLIT.value
    if not files.exists(directory / "DONE.json"):
        raise UserError(f"--job_dir={directory} holds no finished job: run trainer.task there to its end")
    description = _read(directory / "config.json")
    chosen = _read(directory / "evaluation" / "metrics.json")
    dataset = manifest.load(_DATA_DIR.value)
    _check_fits(dataset, description["data"])
    other = None if dataset.fingerprint == description["data"]["fingerprint"] else dataset.fingerprint
    output = job_dir.evaluation_folder(directory, split, other_data=other, output=_OUTPUT.value)

    job = config.from_description(description)
    strategy = strategies.create(_STRATEGY.value)
    with strategy.scope():
        network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    restore_best(network, directory)
    with tf_errors.explained(dataset, batch_size=_BATCH_SIZE.value):
        figures = evaluate.evaluate(
            SplitPredictor(strategy, network, dataset, split, batch_size=_BATCH_SIZE.value),
            dataset,
            output,
            split=split,
            thresholds=chosen["tuned"]["thresholds"],
            # A job of before there were temperatures has none: it chose its thresholds at 1.
            temperature=chosen.get("calibration", {"temperature": 1.0})["temperature"],
            config=description,
            history=[],
        )
    print(text.table(figures))
    _log.info("the report is %s", output / "report.html")


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): restore it, or train again with --fresh") from None


def _check_fits(dataset: manifest.Dataset, data: dict) -> None:
    if list(dataset.genres) != data["genres"]:
        only_here, only_there = set(dataset.genres) - set(data["genres"]), set(data["genres"]) - set(dataset.genres)
        raise UserError(
            f"{dataset.path} has other genres than the job (only the data set: {', '.join(sorted(only_here)) or 'none'}; "
            f"only the job: {', '.join(sorted(only_there)) or 'none'}): evaluate on a data set with the same genres"
        )
    size = data["image"]
    if (dataset.height, dataset.width) != (size["height"], size["width"]):
        raise UserError(
            f"{dataset.path} has pictures of {dataset.height} x {dataset.width}, the job's are {size['height']} x "
            f"{size['width']}: prepare it with --height={size['height']} --width={size['width']}"
        )


if __name__ == "__main__":
    entry.run(main)
