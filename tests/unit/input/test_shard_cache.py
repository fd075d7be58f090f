"""With copies of shards the films are the same in the same order, and later epochs do not need the originals."""

import os
from pathlib import Path

import pytest
import tensorflow as tf

from tests.support import drawn
from trainer.dataset import training_order
from trainer.errors import UserError
from trainer.input import pipeline
from trainer.input.shard_cache import MEMORY, ShardCache


@pytest.fixture
def dataset(tmp_path):
    """60 training films in 4 shards, 10 validation films in 2."""
    folder = tmp_path / "data"
    folder.mkdir()
    return drawn.dataset(folder, train=60, validation=10, test=2, shard_count=4)


def batches(dataset, cache, *, first_step=0, epochs=2):
    order = training_order.create(dataset, batch_size=6, open_shards=2, shuffle_window=5, seed=3)
    inputs = pipeline.training_dataset(dataset, order, replica_batch=6, first_step=first_step, epochs=epochs, cache=cache)
    return ([drawn.film_of(image) for image in features["image"]] for features, _ in inputs.as_numpy_iterator())


@pytest.fixture(params=[MEMORY, "folder"])
def kept_in(request, tmp_path):
    yield MEMORY if request.param == MEMORY else str(tmp_path / "cache")
    # The memory file system outlives a test.
    if request.param == MEMORY:
        tf.io.gfile.rmtree("ram://shards")


@pytest.mark.parametrize("first_step", [0, 13])
def test_films_come_in_the_same_order(dataset, kept_in, first_step):
    cache = ShardCache(dataset, kept_in)
    assert list(batches(dataset, cache, first_step=first_step)) == list(batches(dataset, None, first_step=first_step))


def test_after_the_first_epoch_the_originals_are_not_read(dataset, tmp_path):
    expected = list(batches(dataset, None))
    cached = batches(dataset, ShardCache(dataset, str(tmp_path / "cache")))
    # Past the first epoch's last record, all shards have been opened.
    seen = [next(cached) for _ in range(len(expected) // 2)]
    for path in dataset.shard_paths("train"):
        Path(path).unlink()
    assert seen + list(cached) == expected


def test_a_later_process_uses_the_copies_of_an_earlier_one_but_not_a_damaged_one(dataset, tmp_path):
    expected = list(batches(dataset, None))
    folder = tmp_path / "cache"
    assert list(batches(dataset, ShardCache(dataset, str(folder)))) == expected
    copies = sorted(folder.rglob("*.tfrecord"))
    assert len(copies) == 4
    copies[0].write_bytes(copies[0].read_bytes()[:-100])
    for path in dataset.shard_paths("train")[1:]:
        Path(path).unlink()
    assert list(batches(dataset, ShardCache(dataset, str(folder)))) == expected
    assert not list(folder.rglob("*.partial"))


def test_evaluation_reads_every_film_from_the_copies(dataset, kept_in):
    cache = ShardCache(dataset, kept_in)
    for _ in range(2):
        inputs = pipeline.evaluation_dataset(dataset, "validation", replica_batch=4, replicas=1, cache=cache)
        rows = [row for _, found in inputs.as_numpy_iterator() for row in found if row >= 0]
        assert sorted(rows) == list(range(10))
        for path in dataset.shard_paths("validation"):
            Path(path).unlink(missing_ok=True)


def test_a_damaged_original_is_named(dataset, kept_in):
    path = Path(dataset.shard_paths("train")[0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(tf.errors.UnknownError, match=r"UserError: .*00000-of-00004.tfrecord is damaged.*--overwrite"):
        list(batches(dataset, ShardCache(dataset, kept_in)))


def test_an_original_that_is_gone_is_named(dataset, kept_in):
    Path(dataset.shard_paths("train")[0]).unlink()
    with pytest.raises(tf.errors.UnknownError, match=r"UserError: .*00000-of-00004.tfrecord is gone: restore it"):
        list(batches(dataset, ShardCache(dataset, kept_in)))


def test_an_unfinished_copy_of_a_killed_process_is_removed(dataset, tmp_path):
    folder = tmp_path / "cache" / dataset.fingerprint[:16]
    folder.mkdir(parents=True)
    old, new = (folder / f"train-00000-of-00004.tfrecord.{pid}.1.partial" for pid in (1, 2))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    ShardCache(dataset, str(tmp_path / "cache"))
    assert sorted(folder.iterdir()) == [new]


@pytest.mark.parametrize("uri", ["gs://posters/cache", "s3://posters/cache"])
def test_a_uri_is_refused(dataset, uri):
    with pytest.raises(UserError, match=rf"--cache must be a folder on a disk of this machine or memory, got '{uri}'"):
        ShardCache(dataset, uri)


def test_a_folder_that_cannot_be_made_is_refused(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"--cache=.*file cannot be created \(.*\): choose a folder that this process can write, or memory"
    ):
        ShardCache(dataset, str(tmp_path / "file"))
