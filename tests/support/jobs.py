"""Tiny jobs of trainer.task, and the comparison of their results."""

import csv
from pathlib import Path

import numpy as np
import tensorflow as tf

OPTIONS = ("--model=resnet", "--augment=strong", "--epochs=3", "--batch_size=16", "--backup_steps=3", "--learning_rate=0.003")
STEPS_PER_EPOCH = 10

RESULTS = ("config.json", "history.csv", "evaluation/metrics.json", "evaluation/predictions.csv", "evaluation/report.html")


def train(data_dir: Path, job_dir: Path, *options: str) -> tuple[str, ...]:
    """Returns the command of a tiny job."""
    return ("trainer.task", f"--data_dir={data_dir}", f"--job_dir={job_dir}", *OPTIONS, *options)


def mirrored(data_dir: Path, job_dir: Path, *options: str, replicas: int) -> tuple[str, ...]:
    """Returns the command of a tiny job under MirroredStrategy, with each replica on a part of the CPU."""
    return ("tests.support.mirrored_task", str(replicas), *train(data_dir, job_dir, *options)[1:], "--strategy=mirrored")


def history(job_dir: Path) -> list[dict[str, str]]:
    """Returns the rows of history.csv."""
    with (job_dir / "history.csv").open() as file:
        return list(csv.DictReader(file))


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of the newest checkpoint in a folder, by name."""
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_equal(one: Path, other: Path) -> None:
    """Asserts that two jobs have equal results: files byte by byte, checkpoints tensor by tensor."""
    for name in (*RESULTS, "evaluation/loss.png", "DONE.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for checkpoint in ("best", "last"):
        first, second = tensors(one / "checkpoints" / checkpoint), tensors(other / "checkpoints" / checkpoint)
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=f"{checkpoint}: {name}")
