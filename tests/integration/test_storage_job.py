"""Jobs that read and write only Cloud Storage, through unmodified TensorFlow and Google's client."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.fakes.storage.faults import Plan
from tests.fakes.storage.server import Storage
from tests.support.chaos import SHORT, Chaos, Strike, one_a_phase, struck
from tests.support.chaos_worker import BACKUP
from tests.support.commands import ENVIRONMENT, interrupt, refusal, run, start
from tests.support.jobs import OPTIONS, assert_equal

LONG = pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make test-cloud")

DATA = "gs://posters/data"


def job(uri: str, *options: str) -> tuple[str, ...]:
    """Returns the command of a tiny job on Cloud Storage."""
    return ("trainer.task", f"--data_dir={DATA}", f"--job_dir={uri}", *OPTIONS, *options)


SURVIVED = ("429", "500", "503", "reset", "lost_answer", "truncated", "slow")


@pytest.fixture(scope="module")
def stored(cloud: Storage, data_dir: Path) -> Storage:
    """Cloud Storage that holds the data set."""
    cloud.upload_folder(data_dir, DATA)
    return cloud


@pytest.fixture(scope="module")
def environment(stored: Storage) -> dict[str, str]:
    """The environment of a process that uses the fake Cloud Storage."""
    return ENVIRONMENT | stored.environment


@pytest.fixture(autouse=True)
def _no_faults(stored: Storage):
    yield
    stored.clear()


def test_two_workers_survive_kills_and_faults_and_end_as_on_a_disk(stored, environment, pair_dir, tmp_path):
    # The backup's data exist, but the pointer to them does not.
    job = struck_in_bucket(stored, tmp_path, "cnn", (Strike(BACKUP, ("worker 0", "worker 1")),), *SHORT, "--backup_steps=7")
    assert_equal(pair_dir, job.job_dir)
    assert not {"LOCK.json", "backup/checkpoint"} & set(stored.names(job.uri))

    image = _image(tmp_path)
    stored.put("gs://posters/images/poster.png", Path(image).read_bytes())
    on_disk, in_bucket = (
        run("trainer.predict", f"--job_dir={uri}", "--json", poster, env=environment).stdout
        for uri, poster in ((pair_dir, image), (job.uri, "gs://posters/images/poster.png"))
    )
    assert json.loads(on_disk)["scores"] == json.loads(in_bucket)["scores"]


def struck_in_bucket(cloud: Storage, folder: Path, model: str, strikes: tuple[Strike, ...], *options: str) -> Chaos:
    """Runs a job on Cloud Storage with strikes, and with faults of every kind in 5 % of its requests."""
    hasty = cloud.environment | {"GCS_REQUEST_IDLE_TIMEOUT_SECS": "1"}
    job = Chaos(folder / "struck", workers=2, uri=f"gs://posters/jobs/{model}", environment=hasty)
    cloud.inject(Plan(kinds=SURVIVED, rate=0.05, seed=127, slow_seconds=1.5))
    struck(job, DATA, strikes, f"--model={model}", *options)
    counts = cloud.counts()
    print(f"faults that were delivered: {counts}")
    assert {kind for kind in counts if counts[kind]} == set(SURVIVED)
    cloud.clear()
    cloud.download_folder(job.uri, job.job_dir)
    return job


def _image(folder: Path) -> str:
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(folder / "poster.png")
    return str(folder / "poster.png")


@LONG
@pytest.mark.parametrize("model", ["cnn", "resnet"])
def test_killed_once_in_each_phase_with_faults(stored, data_dir, tmp_path, model):
    whole = Chaos(tmp_path / "whole", workers=2)
    struck(whole, data_dir, (), f"--model={model}")
    kills = one_a_phase((("worker 1",), ("worker 0",), ("guard 1",), ("worker 0", "worker 1")))
    assert_equal(whole.job_dir, struck_in_bucket(stored, tmp_path, model, kills).job_dir)


# TensorFlow writes the data under a temporary name and renames them, but writes the index under its final name.
@pytest.mark.parametrize("part", ["index", pytest.param("_temp%2Fpart", marks=LONG)])
def test_a_checkpoint_that_did_not_arrive_replaces_no_earlier_one(stored, environment, part):
    uri = f"gs://posters/jobs/swallowed-{part}"
    command = job(uri, "--model=cnn")
    stored.inject(Plan(kinds=("swallowed",), match=rf"backup%2Fckpt-6[^&]*{part}", count=1))
    ended = run(*command, code=75, env=environment)
    assert stored.counts() == {"swallowed": 1}
    assert "backup/ckpt-6 was written and did not arrive whole" in ended.stderr
    pointer = stored.get(f"{uri}/backup/checkpoint").decode()
    assert "ckpt-3" in pointer
    assert "ckpt-6" not in pointer


@LONG
def test_a_job_resumed_after_a_checkpoint_that_did_not_arrive_ends_the_same(stored, environment, job_dir, tmp_path):
    uri = "gs://posters/jobs/resumed"
    stored.inject(Plan(kinds=("swallowed",), match=r"backup%2Fckpt-6[^&]*index", count=1))
    run(*job(uri), code=75, env=environment)
    assert "restored step 3 of" in run(*job(uri), env=environment).stderr
    stored.download_folder(uri, tmp_path / "job")
    assert_equal(job_dir, tmp_path / "job")


@LONG
def test_a_cache_changes_nothing_and_reads_each_shard_once(stored, environment, job_dir, tmp_path):
    uri = "gs://posters/jobs/cached"
    run(*job(uri, "--cache=memory"), env=environment)
    read = [entry["target"] for entry in stored.requests() if "train-0000" in entry["target"] and entry["range"]]
    assert len(read) == len(set(read)) == 8
    stored.download_folder(uri, tmp_path / "job")
    assert_equal(job_dir, tmp_path / "job")


@LONG
def test_fresh_moves_the_old_job_aside(stored, environment):
    uri = "gs://posters/jobs/fresh"
    command = job(uri, "--epochs=1", "--max_steps=2")
    run(*command, env=environment)
    old = _files(stored, uri)
    assert "seed=0 (not 1)" in refusal(*command, "--seed=1", env=environment)
    run(*command, "--seed=1", "--fresh", env=environment)
    assert _files(stored, f"{uri}/old-1") == old
    assert stored.get(f"{uri}/config.json") != old["config.json"]

    run("trainer.evaluate", f"--job_dir={uri}", f"--data_dir={DATA}", "--split=validation", env=environment)
    assert json.loads(stored.get(f"{uri}/evaluation-validation/metrics.json"))["split"] == "validation"


def _files(cloud: Storage, uri: str) -> dict[str, bytes]:
    """Returns the objects of a folder, without TensorFlow's marker objects of folders."""
    return {name: content for name, content in cloud.objects(uri).items() if not name.endswith("/")}


@LONG
def test_two_jobs_do_not_share_a_directory(stored, environment):
    uri = "gs://posters/jobs/shared"
    command = job(uri, "--epochs=50")
    first = start(*command, env=environment | {"POSTER_JOB_ID": "first"})
    killed = interrupt(first, signal.SIGKILL, when=lambda: "backup/checkpoint" in stored.names(uri))
    assert killed == -signal.SIGKILL
    assert f"{uri} belongs to job first" in refusal(*command, env=environment | {"POSTER_JOB_ID": "second"})


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        (
            "403",
            2,
            r"error: gs://posters/data/train-0000\d-of-00008.tfrecord: trainer@\S+ lacks storage.objects.get on gs://posters",
        ),
        pytest.param("404", 2, r"error: gs://posters/data/train-0000\d-of-00008.tfrecord is gone: restore it", marks=LONG),
        pytest.param("503", 75, r"error: gs://posters/data/train-0000\d.*: Cloud Storage does not answer", marks=LONG),
        pytest.param("401", 75, r"error: gs://posters/data/train-0000\d.*: Cloud Storage refuses the token", marks=LONG),
    ],
)
def test_an_error_while_a_shard_is_read_is_reported_in_one_line(stored, environment, kind, code, said):
    # Only on reads of the data, not on the earlier request for the object's metadata.
    stored.inject(Plan(kinds=(kind,), match=r"GET storage.googleapis.com /posters/data%2Ftrain"))
    command = job(f"gs://posters/jobs/shard-{kind}", "--model=cnn")
    ended = run(*command, code=code, env=environment | {"GCS_RETRY_CONFIG_MAX_RETRIES": "2"})
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.match(said, lines[0]), lines[0]
    assert "Traceback" not in ended.stderr
