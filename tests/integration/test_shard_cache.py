"""With copies of shards the films are the same in the same order, and later epochs do not need the originals."""

import itertools
import os
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from tests.support import drawn
from trainer.dataset import training_order
from trainer.errors import UserError
from trainer.input import pipeline, shard_cache
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


@pytest.mark.parametrize(("seconds", "is_left"), [(599, True), (600, True), (601, False)])
def test_a_copy_counts_as_unfinished_after_ten_minutes_without_a_write(dataset, tmp_path, monkeypatch, seconds, is_left):
    folder = tmp_path / "cache" / dataset.fingerprint[:16]
    folder.mkdir(parents=True)
    path = folder / "train-00000-of-00004.tfrecord.1.1.partial"
    path.touch()
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(shard_cache.time, "time", lambda: 1000 + seconds)
    ShardCache(dataset, str(tmp_path / "cache"))
    assert path.exists() is is_left


def test_two_processes_may_remove_the_same_unfinished_copies(dataset, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / dataset.fingerprint[:16]
    folder.mkdir(parents=True)
    paths = [folder / f"train-00000-of-00004.tfrecord.{pid}.1.partial" for pid in (1, 2)]
    for path in paths:
        path.touch()
        os.utime(path, (0, 0))
    clock = itertools.count(1000)

    def time():
        if next(clock) == 1000:
            # The other process is faster with the first one.
            next(path for path in folder.glob("*.partial")).unlink()
        return 1000.0

    monkeypatch.setattr(shard_cache.time, "time", time)
    ShardCache(dataset, str(tmp_path / "cache"))
    assert list(folder.iterdir()) == []


def test_open_shards_are_copied_at_the_same_time_and_the_order_stays_though_the_first_comes_last(dataset, tmp_path, monkeypatch):
    """Else a step would wait for one shard after the other."""
    expected = list(batches(dataset, None, epochs=1))
    both, second_is_done = threading.Barrier(2, timeout=10), threading.Event()
    chunks = shard_cache._chunks
    opened = itertools.count()

    def wait_for_both(path):
        number = next(opened)
        both.wait()
        if number == 0:
            assert second_is_done.wait(10)
        yield from chunks(path)
        second_is_done.set()

    monkeypatch.setattr(shard_cache, "_chunks", wait_for_both)
    order = training_order.create(dataset, batch_size=6, open_shards=2, shuffle_window=5, seed=3)
    cache = ShardCache(dataset, str(tmp_path / "cache"))
    inputs = pipeline.training_dataset(dataset, order, replica_batch=6, first_step=0, epochs=1, cache=cache)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 4  # Also on a machine with one core.
    seen = inputs.with_options(options).as_numpy_iterator()
    assert [[drawn.film_of(image) for image in features["image"]] for features, _ in seen] == expected


def test_a_copy_is_checked_once_in_a_process(dataset, tmp_path, monkeypatch):
    read = []
    chunks = shard_cache._chunks

    def note(path):
        read.append(Path(path).name)
        return chunks(path)

    monkeypatch.setattr(shard_cache, "_chunks", note)
    list(batches(dataset, ShardCache(dataset, str(tmp_path / "cache"))))
    names = sorted(Path(path).name for path in dataset.shard_paths("train"))
    assert sorted(read) == names, "each original is read once in two epochs"
    read.clear()
    list(batches(dataset, ShardCache(dataset, str(tmp_path / "cache"))))
    assert sorted(read) == names, "and each copy once by a later process"


def copy_of(dataset, kept_in, *, shard=0):
    """Copies one shard, in a graph as tf.data does."""
    return tf.function(ShardCache(dataset, kept_in).path)(tf.constant(dataset.shard_paths("train")[shard]))


def left_over(dataset, kept_in):
    root = "ram://shards" if kept_in == MEMORY else kept_in
    return tf.io.gfile.glob(f"{root}/{dataset.fingerprint[:16]}/*")


def test_bytes_that_change_on_their_way_are_asked_for_again_and_never_used(dataset, kept_in, monkeypatch):
    chunks = shard_cache._chunks

    def damaged(path):
        return (bytes([chunk[0] ^ 1]) + chunk[1:] for chunk in chunks(path))

    monkeypatch.setattr(shard_cache, "_chunks", damaged)
    with pytest.raises(tf.errors.UnknownError, match=r"LostService: .*of-00004.tfrecord was damaged on its way"):
        copy_of(dataset, kept_in)
    assert left_over(dataset, kept_in) == []


SILENT = "All 10 retry attempts failed. The last failure: HTTP response code 503 with body '' when reading gs://posters/data/train"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "no space"),
            r"UserError: --cache=.* is full \(no space\): give it",
        ),
        (tf.errors.NotFoundError(None, None, "no such file"), r"UserError: .*train-00000-of-00004.tfrecord is gone: restore it or"),
        (tf.errors.AbortedError(None, None, SILENT), r"LostService: gs://posters/data/train: Cloud Storage does not answer"),
        (tf.errors.DataLossError(None, None, "bad sector"), "DataLossError: bad sector"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_that_fails_says_why_and_leaves_nothing(dataset, kept_in, monkeypatch, error, told):
    def fail(path):
        yield b"the beginning"
        raise error

    monkeypatch.setattr(shard_cache, "_chunks", fail)
    with pytest.raises(tf.errors.OpError, match=told):
        copy_of(dataset, kept_in)
    assert left_over(dataset, kept_in) == []


def test_a_copy_is_named_as_its_original(dataset, kept_in):
    path = copy_of(dataset, kept_in, shard=1)
    assert path.shape == []
    assert path.numpy().decode().endswith(f"/{dataset.fingerprint[:16]}/train-00001-of-00004.tfrecord")
    assert len(left_over(dataset, kept_in)) == 1


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
