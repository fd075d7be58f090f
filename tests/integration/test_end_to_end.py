"""From drawn posters to a served model, through the commands that the README names."""

import json

import pytest

from benchmarks import serving_parity
from tests.support.commands import run


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    run("trainer.demo", f"--output={folder}", "--films=150")
    return folder


@pytest.fixture(scope="module")
def job_dir(tmp_path_factory, films):
    folder = tmp_path_factory.mktemp("end_to_end")
    data = ("--height=96", "--width=64", f"--output={folder / 'data'}")
    run("trainer.prepare", f"--csv={films / 'films.csv'}", f"--images={films}", *data)
    job = (f"--data_dir={folder / 'data'}", f"--job_dir={folder / 'job'}", "--model=cnn")
    run("trainer.task", *job, "--epochs=12", "--batch_size=16", "--learning_rate=0.002")
    return folder / "job"


def test_the_model_learns_what_the_posters_show(job_dir):
    metrics = json.loads((job_dir / "evaluation" / "metrics.json").read_text())
    best_constant = max(baseline["f1_micro"] for baseline in metrics["baselines"].values())
    assert metrics["tuned"]["f1_micro"] > best_constant + 0.05


def test_training_and_serving_see_the_same_image(job_dir, films):
    compared = serving_parity.compare(job_dir, films)
    assert compared["films"] >= 10
    assert compared["median_difference"] < 0.005
    assert compared["changed_decisions"] <= 0.01
