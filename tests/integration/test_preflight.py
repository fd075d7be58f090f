"""What launch checks before it starts a job, with data sets and job directories on a disk and on Cloud Storage."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.fakes.storage.server import Storage
from tests.support.commands import ENVIRONMENT, refusal, start
from tests.support.jobs import OPTIONS

DATA = "gs://posters/looked-at"


@pytest.fixture(scope="module")
def stored(cloud: Storage, data_dir: Path, job_dir: Path) -> Storage:
    """Cloud Storage that holds a data set and a finished job."""
    cloud.upload_folder(data_dir, DATA)
    cloud.upload_folder(job_dir, "gs://posters/done")
    return cloud


@pytest.fixture(scope="module")
def environment(stored: Storage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that uses the fake Cloud Storage, and a cluster that does not answer."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "current-context": "c",
    }
    path = tmp_path_factory.mktemp("cluster") / "config"
    path.write_text(json.dumps(config))
    return ENVIRONMENT | stored.environment | {"KUBECONFIG": str(path)}


def noted(environment, *words):
    """Returns launch's output for a job that passes the checks; launch then fails because the cluster does not answer."""
    _, err = start("launch", "--target=kubernetes", "--image=i", *map(str, words), env=environment).communicate(timeout=120)
    assert "127.0.0.1:1 does not answer" in err
    return err


@pytest.mark.parametrize("target", ["local", "kubernetes"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--workers=3 -- --batch_size=64", "--batch_size=64 does not divide among 3 workers: choose a multiple of 3"),
        ("--workers=0 --", "--workers must be at least 1 and at most 100000, got 0"),
        ("-- --modle=cnn", "Unknown command line flag 'modle'"),
        ("--target=kubernetes -- --strategy=tpu", "--strategy=tpu needs a TPU: add --accelerator"),
        ("--workers=2 -- --run_eagerly", "--run_eagerly supports one worker, not --workers=2"),
        ("-- --strategy=multi_worker", "--strategy=multi_worker needs at least two workers: use --workers=2 or more"),
        ("-- --flagfile=/nowhere", "/nowhere"),
        ("-- --model=gru", "--model must be one of cnn, resnet, "),
    ],
)
def test_an_error_in_the_description_is_reported_in_a_dry_run_too(target, words, says):
    words = (f"--target={target}", "--image=i", *words.split(), "--data_dir=gs://b/d", "--job_dir=gs://b/j")
    assert says in refusal("launch", "--dry_run", *words)
    assert says in refusal("launch", *words)


@pytest.mark.parametrize(
    ("words", "batch", "count"),
    [
        ("--workers=2 --accelerator=nvidia-l4:8", 24, 16),
        ("--workers=2 --accelerator=nvidia-tesla-t4:3", 16, 6),
        ("--accelerator=tpu-v3-device:4", 12, 8),  # Devices with two cores each.
    ],
)
def test_a_batch_must_divide_among_the_devices_of_all_workers(words, batch, count):
    words = ("--target=kubernetes", "--image=i", "--dry_run", *words.split(), "--", "--data_dir=gs://b/d", "--job_dir=gs://b/j")
    line = refusal("launch", *words, f"--batch_size={batch}")
    assert f"--batch_size={batch} does not divide among {count} replicas: choose a multiple of {count}" in line


def test_a_data_set_that_does_not_fit_is_refused_before_anything_starts(tmp_path, data_dir):
    line = refusal("launch", "--target=local", "--", f"--data_dir={tmp_path}", f"--job_dir={tmp_path}/job")
    assert f"{tmp_path} is not a data set, it has no dataset.json" in line
    cut = tmp_path / "cut"
    shutil.copytree(data_dir, cut)
    next(cut.glob("train-*")).unlink()
    line = refusal("launch", "--target=local", "--", f"--data_dir={cut}", f"--job_dir={tmp_path}/job")
    assert "of-00008.tfrecord is missing" in line
    line = refusal("launch", "--target=local", "--", f"--data_dir={data_dir}", f"--job_dir={tmp_path}/job", "--batch_size=512")
    assert "--batch_size=512 is larger than an epoch" in line
    assert "168 films (21 from each of 8 shards)" in line
    for flag, says in (
        ("--profile_steps=1000,2000", "--profile_steps=1000,2000 goes beyond the job's last step, "),
        ("--max_steps=3 --steps_per_execution=2", "--max_steps=3 ends 3 steps into an epoch"),
    ):
        flags = (f"--data_dir={data_dir}", f"--job_dir={tmp_path}/job", "--batch_size=8", *flag.split())
        assert says in refusal("launch", "--target=local", "--", *flags)
    assert not (tmp_path / "job").exists()


def test_a_job_directory_of_another_configuration_is_refused(tmp_path, data_dir, job_dir):
    flags = ("--target=local", "--", f"--data_dir={data_dir}", f"--job_dir={job_dir}", *OPTIONS, "--seed=77")
    assert "holds a job with seed=" in refusal("launch", *flags)
    stranger = tmp_path / "stranger"
    (stranger / "model").mkdir(parents=True)
    line = refusal("launch", "--target=local", "--", f"--data_dir={data_dir}", f"--job_dir={stranger}")
    assert "has no config.json but holds model" in line
    (tmp_path / "file").write_text("")
    line = refusal("launch", "--target=local", "--", f"--data_dir={data_dir}", f"--job_dir={tmp_path}/file")
    assert "file" in line


def test_a_job_directory_that_is_in_use_is_refused(tmp_path, data_dir):
    owner = {"job_id": "other", "attempt": 1, "host": "elsewhere", "pid": 7, "heartbeat": time.time()}
    (tmp_path / "LOCK.json").write_text(json.dumps(owner))
    line = refusal("launch", "--target=local", "--", f"--data_dir={data_dir}", f"--job_dir={tmp_path}")
    assert "belongs to job other (process 7 on elsewhere" in line


def test_buckets_are_checked_before_a_job_is_submitted(stored, environment):
    words = ("--target=kubernetes", "--image=i")
    for address in ("gs://posters/nothing", "/gcs/posters/nothing"):
        line = refusal("launch", *words, "--", f"--data_dir={address}", "--job_dir=gs://posters/new", env=environment)
        assert "gs://posters/nothing is not a data set" in line
    line = refusal(
        "launch", *words, "--", f"--data_dir={DATA}", "--job_dir=/gcs/posters/done", *OPTIONS, "--seed=9", env=environment
    )
    assert "gs://posters/done holds a job with seed=" in line
    before = stored.names("gs://posters/")
    err = noted(environment, "--workers=16", "--", f"--data_dir={DATA}", "--job_dir=gs://posters/done", *OPTIONS)
    assert "8 training shards, 8 open at a time, do not divide among 16 workers" in err
    assert "gs://posters/done holds a finished job: the workers will exit at once" in err
    assert stored.names("gs://posters/") == before


def test_without_credentials_the_bucket_and_the_remedy_are_named(environment):
    environment = environment | {"NO_GCE_CHECK": "true", "HOME": "/nowhere", "GOOGLE_APPLICATION_CREDENTIALS": ""}
    words = ("--target=kubernetes", "--image=i", "--", f"--data_dir={DATA}", "--job_dir=gs://posters/new")
    line = refusal("launch", *words, env=environment)
    assert "gcloud auth application-default login" in line
    assert "--skip_preflight" in line


def test_the_checks_can_be_skipped(environment):
    err = noted(environment, "--skip_preflight", "--", "--data_dir=gs://nothing/data", "--job_dir=gs://nothing/job")
    assert "gs://nothing" not in err
