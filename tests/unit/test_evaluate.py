"""trainer.evaluate: what it checks, where it writes, and what it takes over from the job."""

import contextlib
import dataclasses
import json
import shutil
from typing import Any

import pytest
import tensorflow as tf
from absl import flags
from etils import epath

from tests.support import drawn, own_flags
from trainer.config import TrainConfig
from trainer.dataset import manifest
from trainer.errors import UserError
from trainer.evaluation import evaluate
from trainer.evaluation.report import text
from trainer.job import job_dir as job_dirs
from trainer.model import networks
from trainer.process import allocation, tensorflow_start
from trainer.training import checkpoints

THRESHOLDS = dict.fromkeys(drawn.GENRES, 0.4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=12, validation=4, test=4, shard_count=1)


@pytest.fixture
def job(dataset, tmp_path):
    """The directory of a finished job, without its weights."""
    config = TrainConfig(data_dir=str(dataset.path), job_dir=str(tmp_path / "job"), model="cnn")
    job = job_dirs.describe(config, dataset)
    job.make()
    job.begin()
    job.finish({})
    (tmp_path / "job" / "evaluation").mkdir()
    write_metrics(tmp_path / "job", {"tuned": {"thresholds": THRESHOLDS}, "calibration": {"temperature": 1.25}})
    return tmp_path / "job"


def write_metrics(job, metrics):
    (job / "evaluation" / "metrics.json").write_text(json.dumps(metrics))


@dataclasses.dataclass
class Calls:
    """What the command asked of the parts that take long, in the order of its calls."""

    names: list[str] = dataclasses.field(default_factory=list)
    built: list[Any] = dataclasses.field(default_factory=list)
    evaluated: dict[str, Any] = dataclasses.field(default_factory=dict)
    restored: list[Any] = dataclasses.field(default_factory=list)


@pytest.fixture
def calls(monkeypatch):
    """Builds no network, evaluates nothing and prints the split's name for a table."""
    calls = Calls()

    def build(config, **options):
        calls.built.append((config, options))
        return "the network"

    def evaluate_split(predictor, dataset, output, **options):
        calls.names.append("evaluate")
        calls.evaluated.update(options, predictor=predictor, dataset=dataset, output=output)
        return {"split": options["split"]}

    def restore_best(network, directory):
        calls.names.append("restore")
        calls.restored.append((network, directory))

    monkeypatch.setattr(allocation, "keep_freed_memory", lambda: calls.names.append("keep freed memory"))
    monkeypatch.setattr(tensorflow_start, "start", lambda: calls.names.append("start TensorFlow"))
    monkeypatch.setattr(networks, "build", build)
    monkeypatch.setattr(checkpoints, "restore_best", restore_best)
    monkeypatch.setattr(evaluate, "evaluate_split", evaluate_split)
    monkeypatch.setattr(text, "table", lambda metrics: f"the table of {metrics['split']}")
    with own_flags.log_as_before(monkeypatch):
        yield calls


def command(patch, job, data, *options, arguments=()):
    own_flags.load(patch, "trainer.evaluate", f"--job_dir={job}", f"--data_dir={data}", *options).main(list(arguments))


def test_it_evaluates_the_best_weights_with_the_jobs_thresholds_and_temperature(monkeypatch, capsys, calls, job, dataset):
    command(monkeypatch, job, dataset.path)
    assert calls.names == ["keep freed memory", "start TensorFlow", "restore", "evaluate"]
    ((config, options),) = calls.built
    assert (config.model, options) == ("cnn", {"genres": 3, "height": 16, "width": 16})
    assert calls.restored == [("the network", epath.Path(job))]
    found = calls.evaluated
    assert (found["split"], found["thresholds"], found["temperature"]) == ("test", THRESHOLDS, 1.25)
    assert found["config"] == json.loads((job / "config.json").read_text())
    assert found["history"] == []
    assert found["dataset"].fingerprint == dataset.fingerprint
    assert found["output"] == epath.Path(job) / "evaluation-test"
    assert found["predictor"].labels.shape == (4, 3)
    printed = capsys.readouterr()
    assert printed.out == "the table of test\n"
    assert f"evaluating on the test split of {dataset.path}: 4 films" in printed.err
    assert f"the report is {job}/evaluation-test/report.html" in printed.err


def test_a_job_of_an_early_version_has_a_temperature_of_one(monkeypatch, calls, job, dataset):
    write_metrics(job, {"tuned": {"thresholds": THRESHOLDS}})
    command(monkeypatch, job, dataset.path)
    assert calls.evaluated["temperature"] == 1.0


def test_the_flags_choose_split_and_folder(monkeypatch, calls, job, dataset, tmp_path):
    command(monkeypatch, job, dataset.path, "--split=train", f"--output={tmp_path}/here")
    assert calls.evaluated["split"] == "train"
    assert calls.evaluated["output"] == epath.Path(tmp_path / "here")
    assert calls.evaluated["predictor"].labels.shape == (12, 3)


def test_another_data_set_with_the_same_genres_has_a_folder_of_its_own(monkeypatch, calls, job, tmp_path):
    other = drawn.dataset(tmp_path / "other", train=4, validation=4, test=8, shard_count=1)
    command(monkeypatch, job, other.path)
    assert calls.evaluated["output"] == epath.Path(job) / f"evaluation-test-{other.fingerprint[:12]}"


def test_a_batch_that_does_not_fit_into_memory_is_an_error_with_the_flags_value(monkeypatch, calls, job, dataset):
    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(evaluate, "evaluate_split", exhausted)
    with pytest.raises(UserError, match="--batch_size=7 needs more memory than there is"):
        command(monkeypatch, job, dataset.path, "--batch_size=7")


def variant(dataset, folder, **changes):
    """Copies a data set, and changes the genres or the size of the images in its dataset.json."""
    changed = dataclasses.replace(dataset, path=epath.Path(folder), **changes)
    changed = dataclasses.replace(changed, fingerprint=manifest.fingerprint(changed))
    shutil.copytree(dataset.path, folder)
    (folder / manifest.DATASET_FILE).write_text(manifest.to_text(changed))
    return folder


def with_genres(dataset, genres):
    def renamed(split):
        return dataclasses.replace(split, genre_counts=dict(zip(genres, split.genre_counts.values(), strict=True)))

    return {"genres": genres, "splits": {name: renamed(split) for name, split in dataset.splits.items()}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            lambda dataset: with_genres(dataset, ("Action", "Zombies", "War")),
            r"only in the data set: War, Zombies; only in the job: Comedy, Drama\): choose a data set with the job's genres",
        ),
        (
            lambda dataset: with_genres(dataset, ("Comedy", "Action", "Drama")),
            r"only in the data set: none; only in the job: none\)",
        ),
        (lambda _: {"height": 24}, r"images of 24 x 16 \(not the job's 16 x 16\): prepare it with --height=16 --width=16"),
        (lambda _: {"width": 24}, r"images of 16 x 24 \(not the job's 16 x 16\): prepare it with --height=16 --width=16"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(monkeypatch, calls, job, dataset, tmp_path, changes, says):
    folder = variant(dataset, tmp_path / "other", **changes(dataset))
    with pytest.raises(UserError, match=says):
        command(monkeypatch, job, folder)
    assert "start TensorFlow" not in calls.names


@pytest.mark.parametrize("content", [None, "{"])
@pytest.mark.parametrize("name", ["config.json", "evaluation/metrics.json"])
def test_a_job_with_a_missing_or_damaged_file_is_refused(monkeypatch, calls, job, dataset, name, content):
    (job / name).unlink()
    if content:
        (job / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} is missing or damaged \(.+\): restore it, or train again with --fresh"):
        command(monkeypatch, job, dataset.path)
    assert "start TensorFlow" not in calls.names


def test_wrong_arguments_are_refused(monkeypatch, calls, job, dataset):
    with pytest.raises(UserError, match=r"^--job_dir is missing: set --job_dir=DIR$"):
        command(monkeypatch, "", dataset.path)
    with pytest.raises(UserError, match=r"^--data_dir is missing: set --data_dir=DIR$"):
        command(monkeypatch, job, "")
    with pytest.raises(UserError, match=r"^'now' is not a flag of trainer.evaluate: write options as --name=value$"):
        command(monkeypatch, job, dataset.path, arguments=("now",))
    (job / "DONE.json").unlink()
    with pytest.raises(UserError, match=r"holds no finished job: run trainer.task with it until the job is done"):
        command(monkeypatch, job, dataset.path)
    assert calls.names.count("start TensorFlow") == 0


def test_a_batch_has_at_least_one_image(monkeypatch, calls, job, dataset):
    command(monkeypatch, job, dataset.path, "--batch_size=1")
    assert calls.evaluated
    with pytest.raises(flags.IllegalFlagValueError, match="--batch_size=0"):
        command(monkeypatch, job, dataset.path, "--batch_size=0")


def test_a_home_folder_is_understood(monkeypatch, calls, job, dataset):
    monkeypatch.setenv("HOME", str(job.parent))
    with contextlib.chdir("/"):
        command(monkeypatch, "~/job", dataset.path)
    assert calls.evaluated["output"] == epath.Path(job) / "evaluation-test"
