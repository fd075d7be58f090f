"""A drawn data set, finished jobs and Cloud Storage. Jobs are slow, so the first test process that needs one runs it for all."""

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
    """A data set with 170 films for training, 30 for validation and 37 for testing."""
    folder = tmp_path_factory.mktemp("data")
    drawn.dataset(folder, train=170, validation=30, test=37, shard_count=8)
    return folder


@pytest.fixture(scope="session")
def job_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """An undisturbed job; tests do not change it."""
    made = _made_once(tmp_path_factory, "job", lambda folder: run(*train(data_dir, folder)))
    # Each process has its own copy, because a test may check a finished job's lock, or add files for a while.
    return shutil.copytree(made, tmp_path_factory.mktemp("jobs") / "job")


@pytest.fixture(scope="session")
def pair_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The undisturbed job of `chaos.SHORT` on two workers; tests only read it."""

    def make(folder: Path) -> None:
        job = (f"--data_dir={data_dir}", f"--job_dir={folder}", *chaos.OPTIONS, *chaos.SHORT)
        run("launch", "--target=local", "--workers=2", "--", *job)

    return _made_once(tmp_path_factory, "pair", make)


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a job directory that all processes of a test run share. One of them makes it; the others wait."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    folder = common / f"made-{name}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # If the process was killed, the next one's job resumes from its state.
        if not (folder / "DONE.json").exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def cloud() -> Iterator[Storage]:
    """The fake Cloud Storage, with a bucket gs://posters."""
    with storage() as server:
        server.bucket("posters")
        yield server
