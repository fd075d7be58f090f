"""A drawn data set, finished jobs and Cloud Storage. A job takes long: the test process that needs it first makes it for all."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.storage.server import Storage, storage
from tests.support import chaos, drawn
from tests.support.commands import run
from tests.support.jobs import train


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """170 films to train on, 30 to validate, 37 to test."""
    folder = tmp_path_factory.mktemp("data")
    drawn.dataset(folder, train=170, validation=30, test=37, shard_count=8)
    return folder


@pytest.fixture(scope="session")
def job_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A job that nothing disturbed; tests leave it as it is."""
    made = _made_once(tmp_path_factory, "job", lambda folder: run(*train(data_dir, folder)))
    # A copy of its own: a test may look at a finished job's lock, or add to its files for a while.
    return shutil.copytree(made, tmp_path_factory.mktemp("jobs") / "job")


@pytest.fixture(scope="session")
def pair_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """What `chaos.SHORT` describes, on two workers that nothing disturbed; tests only read it."""

    def make(folder: Path) -> None:
        job = (f"--data_dir={data_dir}", f"--job_dir={folder}", *chaos.OPTIONS, *chaos.SHORT)
        run("launch", "--target=local", "--workers=2", "--", *job)

    return _made_once(tmp_path_factory, "pair", make)


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A job's directory that all processes of a test run share; the others wait for the one that makes it."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    folder = common / f"made-{name}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # What a process that was killed has begun, the next one's job goes on with.
        if not (folder / "DONE.json").exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def cloud() -> Iterator[Storage]:
    """Cloud Storage with a bucket gs://posters."""
    with storage() as server:
        server.bucket("posters")
        yield server
