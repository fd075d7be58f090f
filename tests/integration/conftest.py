"""A drawn data set and a finished job, made once for each test process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import drawn
from tests.commands import run
from tests.jobs import train
from tests.storage.server import Storage, storage


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """170 films to train on, 30 to validate, 37 to test."""
    folder = tmp_path_factory.mktemp("data")
    drawn.dataset(folder, train=170, validation=30, test=37, shard_count=8)
    return folder


@pytest.fixture(scope="session")
def job_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A job that nothing disturbed; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("jobs") / "job"
    run(*train(data_dir, folder))
    return folder


@pytest.fixture(scope="session")
def cloud() -> Iterator[Storage]:
    """Cloud Storage with a bucket gs://posters."""
    with storage() as server:
        server.bucket("posters")
        yield server
