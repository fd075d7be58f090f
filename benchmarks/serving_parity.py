"""Checks that training and serving see the same image.

Predicts the posters of a job's test split from their source files with the exported model, and compares the scores with the scores
of the job's evaluation on the prepared shards:

    python benchmarks/serving_parity.py --job_dir=jobs/first --images=posters/
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

_JOB_DIR = flags.DEFINE_string("job_dir", None, "Directory of a finished job.", required=True)
_IMAGES = flags.DEFINE_string("images", None, "Folder with the posters from which the data set was prepared.", required=True)


def compare(job_dir: Path, images: Path) -> dict[str, float]:
    """Compares serving with evaluation over a job's test split.

    Args:
      job_dir: the directory of a finished job.
      images: folder that holds an image ID.* for each film.

    Returns:
      The number of films and decisions compared, the median and the largest difference of a score, and the share of decisions
      (one genre of one film, at the tuned thresholds) that differ.
    """
    with (job_dir / "evaluation" / "predictions.csv").open(encoding="utf-8") as file:
        evaluated = list(csv.DictReader(file))
    path_of = {path.stem: path for path in images.rglob("*") if path.is_file()}
    paths = [str(path_of[row["id"]]) for row in evaluated]
    command = [sys.executable, "-m", "trainer.predict", f"--job_dir={job_dir}", "--json", *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    differences, changed = [], 0
    for row, served in zip(evaluated, map(json.loads, lines), strict=True):
        differences += [abs(float(row[f"score:{genre}"]) - score) for genre, score in served["scores"].items()]
        changed += len(set(served["genres"]) ^ {genre for genre in row["predicted_tuned"].split("|") if genre})
    return {
        "films": len(evaluated),
        "decisions": len(differences),
        "median_difference": float(np.median(differences)),
        "largest_difference": max(differences),
        "changed_decisions": changed / len(differences),
    }


def main(_: list[str]) -> None:
    """Prints the comparison."""
    for name, value in compare(Path(_JOB_DIR.value), Path(_IMAGES.value)).items():
        print(f"{name:20} {value:.6g}")


if __name__ == "__main__":
    app.run(main)
