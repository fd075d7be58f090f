"""Evaluates a finished job on any split of any data set: `python -m trainer.evaluate --job_dir=DIR --data_dir=DIR`.

It checks the arguments and the job, rebuilds the network with the best weights, and writes the same files as the job's evaluation/.
"""

import logging
from typing import Any

from absl import flags
from etils import epath

from trainer import config
from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.job import job_dir
from trainer.process import allocation, entry, log, tensorflow_start
from trainer.storage import files

_log = logging.getLogger("trainer.evaluate")

_JOB_DIR = flags.DEFINE_string("job_dir", None, "Directory of a finished job of trainer.task.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Directory of a data set that trainer.prepare wrote.")
_SPLIT = flags.DEFINE_enum("split", "test", manifest.SPLITS, "Split to evaluate on.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder to write the metrics and the report to; default: JOB_DIR/evaluation-SPLIT, or for another data set than the job's"
    " JOB_DIR/evaluation-SPLIT-FINGERPRINT.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch, over all replicas together.", lower_bound=1)
_STRATEGY = flags.DEFINE_enum("strategy", "auto", ("auto", "one_device", "mirrored"), "tf.distribute strategy.")


def main(arguments: list[str]) -> None:
    """Evaluates a job's best weights on a split, prints the metrics and writes the report."""
    for flag in (_JOB_DIR, _DATA_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing: set --{flag.name}=DIR")
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag of trainer.evaluate: write options as --name=value")
    log.configure("text")
    allocation.keep_freed_memory()
    directory, split = files.from_flag("--job_dir", _JOB_DIR.value), _SPLIT.value
    if not files.exists(directory / "DONE.json"):
        raise UserError(f"--job_dir={directory} holds no finished job: run trainer.task with it until the job is done")
    description = _read(directory / "config.json")
    jobs_metrics = _read(directory / "evaluation" / "metrics.json")
    dataset = manifest.load(_DATA_DIR.value)
    _check_fits(dataset, description["data"])
    other = None if dataset.fingerprint == description["data"]["fingerprint"] else dataset.fingerprint
    output = job_dir.evaluation_folder(directory, split, other_data=other, output=_OUTPUT.value)

    print(_evaluate(directory, description, jobs_metrics, dataset, split, output))
    _log.info("the report is %s", output / "report.html")


def _evaluate(
    directory: epath.Path,
    description: dict[str, Any],
    jobs_metrics: dict[str, Any],
    dataset: manifest.Dataset,
    split: str,
    output: epath.Path,
) -> str:
    """Evaluates the best weights on a split and writes `output`; returns a table of the metrics."""
    # TensorFlow and scikit-learn take seconds to import: wrong arguments have been reported by now.
    tensorflow_start.start()
    from trainer.cluster import strategy as strategies
    from trainer.cluster import tf_errors
    from trainer.evaluation import evaluate
    from trainer.evaluation.predict_split import SplitPredictor
    from trainer.evaluation.report import text
    from trainer.model import networks
    from trainer.training.checkpoints import restore_best

    job = config.from_description(description)
    strategy = strategies.create(_STRATEGY.value)
    with strategy.scope():
        network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    restore_best(network, directory)
    _log.info("evaluating on the %s split of %s: %d films", split, dataset.path, dataset.split(split).examples)
    with tf_errors.explained(dataset, batch_size=_BATCH_SIZE.value):
        metrics = evaluate.evaluate_split(
            SplitPredictor(strategy, network, dataset, split, batch_size=_BATCH_SIZE.value),
            dataset,
            output,
            split=split,
            thresholds=jobs_metrics["tuned"]["thresholds"],
            # Jobs of early versions have no temperature: they chose their thresholds at 1.
            temperature=jobs_metrics.get("calibration", {"temperature": 1.0})["temperature"],
            config=description,
            history=[],
        )
    return text.table(metrics)


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): restore it, or train again with --fresh") from None


def _check_fits(dataset: manifest.Dataset, data: dict) -> None:
    if list(dataset.genres) != data["genres"]:
        only_here, only_there = set(dataset.genres) - set(data["genres"]), set(data["genres"]) - set(dataset.genres)
        raise UserError(
            f"{dataset.path} has other genres than the job (only in the data set: {', '.join(sorted(only_here)) or 'none'}; "
            f"only in the job: {', '.join(sorted(only_there)) or 'none'}): choose a data set with the job's genres"
        )
    size = data["image"]
    if (dataset.height, dataset.width) != (size["height"], size["width"]):
        raise UserError(
            f"{dataset.path} has images of {dataset.height} x {dataset.width} (not the job's {size['height']} x {size['width']}): "
            f"prepare it with --height={size['height']} --width={size['width']}"
        )


if __name__ == "__main__":
    entry.run(main)
