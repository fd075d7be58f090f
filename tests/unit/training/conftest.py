"""A data set for the tests of training, and a job whose parts only note that they were called."""

import pytest

from tests.support import drawn
from tests.support.stage import Stage


@pytest.fixture(scope="package")
def dataset(tmp_path_factory):
    """40 training films in 4 shards."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=40, validation=3, test=2, shard_count=4, encoding="raw")


@pytest.fixture
def stage(dataset, tmp_path, monkeypatch):
    """A job of two epochs in a new directory."""
    return Stage(dataset, tmp_path / "job", monkeypatch)
