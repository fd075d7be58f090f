"""What a run on Cloud Storage that fails, is killed or loses its folder leaves behind."""

import errno
import json
import logging
import threading

import pytest
from google.api_core import exceptions

from tests.support.published import DATA, MARK, bucket_with_notes, changes, fill, names, on_disk, publish, published, shard, there
from trainer.dataset import manifest
from trainer.errors import LostPeer, LostService, Stopped, UserError
from trainer.preparation import publishing


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return bucket_with_notes(monkeypatch, tmp_path)


def die(bucket):
    """Lets a run end as kill -9 would: it has uploaded two shards, and nothing runs after that."""
    destination = published()
    made = destination.__enter__()
    shard(made, 0, 3, "one")
    shard(made, 1, 3, "one")
    for upload in made._uploads:
        upload.result()
    left = dict(bucket.content)
    destination.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    bucket.content.clear()
    for uri, content in left.items():
        bucket.put(uri, content)


def test_after_a_kill_the_next_run_continues_with_the_shards_that_are_there(bucket):
    die(bucket)
    assert set(there(bucket)) == {MARK, *(manifest.shard_name("train", number, 3) for number in range(2))}
    # A run with other flags may have left it.
    bucket.put(f"{DATA}/train-00000-of-00099.tfrecord", b"other")
    bucket.put(f"{DATA}/train-00001-of-00003.tfrecord", b"two 1")
    bucket.requests.clear()
    publish("one")
    assert set(there(bucket)) == names()
    assert there(bucket)["train-00001-of-00003.tfrecord"] == b"one 1"
    uploaded = sorted(request.uri.rpartition("/")[2] for request in bucket.asked("upload"))
    assert uploaded == ["train-00001-of-00003.tfrecord", "train-00002-of-00003.tfrecord"]


def test_after_a_kill_behind_dataset_json_the_data_set_is_finished(bucket):
    die(bucket)
    mark = bucket.content[f"{DATA}/{MARK}"]
    publish("one")
    bucket.put(f"{DATA}/{MARK}", mark)
    with pytest.raises(UserError, match="holds a finished data set: add --overwrite"):
        publish("two")
    assert set(there(bucket)) == names()


@pytest.mark.parametrize("content", [None, b"one 8", b"one 11"])
def test_a_shard_that_the_bucket_has_swallowed_or_changed_is_noticed_before_dataset_json(bucket, content):
    uri = f"{DATA}/train-00001-of-00003.tfrecord"

    def before(request):
        if request.verb != "list" or uri not in bucket.content:
            return
        if content is None:
            del bucket.content[uri]
        else:
            bucket.put(uri, content)

    bucket.before = before
    with pytest.raises(LostService, match=rf"^{uri} was lost or damaged in the upload: run the same command again$"):
        publish("one")
    assert "dataset.json" not in there(bucket)
    assert MARK in there(bucket), "the next run continues"
    bucket.before = lambda _: None
    publish("one")
    assert set(there(bucket)) == names()


def test_a_shard_that_arrives_damaged_is_noticed(bucket, monkeypatch):
    put = bucket.put

    def damage(uri, content):
        return put(uri, b"damaged" if uri.endswith("train-00001-of-00003.tfrecord") else content)

    monkeypatch.setattr(bucket, "put", damage)
    with pytest.raises(LostService, match=rf"^{DATA}/train-00001-of-00003.tfrecord was damaged in the upload: run the same"):
        publish("one")
    assert "dataset.json" not in there(bucket)


def test_after_a_refusal_only_the_lock_is_left_even_if_an_upload_is_slow(bucket, monkeypatch, caplog):
    """An upload that ends after the removal would leave its shard."""
    refused, slow = (manifest.shard_name("train", number, 2) for number in range(2))
    is_under_way, is_removed, remove = threading.Event(), threading.Event(), publishing.objects.remove

    def before(request):
        if request.uri.endswith(refused):
            is_under_way.wait(10)
            raise exceptions.Forbidden("no")
        if request.uri.endswith(slow) and request.verb == "upload":
            is_under_way.set()
            is_removed.wait(0.1)

    def removed(uri, **options):
        remove(uri, **options)
        if uri.endswith(slow):
            is_removed.set()

    monkeypatch.setattr(publishing.objects, "remove", removed)
    bucket.before = before
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"lacks storage\.objects\.create"):
        publish("one", 2)
    assert set(there(bucket)) == {MARK}
    (said,) = caplog.messages
    assert said.startswith(f"{DATA} holds unfinished files, which the next run removes: {DATA}/{refused}: ")


def test_a_run_that_would_end_the_same_way_leaves_nothing(bucket, tmp_path):
    for error in (UserError(""), ValueError(), OSError(errno.ENOSPC, "")):
        with pytest.raises(type(error)), published() as destination:
            fill(destination, "one")
            raise error
        assert there(bucket) == {}
    assert on_disk(tmp_path) == []


@pytest.mark.parametrize("error", [LostService(""), LostPeer(""), Stopped(""), KeyboardInterrupt(), OSError(errno.EIO, "")])
def test_a_run_that_is_to_be_started_again_leaves_its_shards_and_its_lock(bucket, tmp_path, error):
    with pytest.raises(type(error)), published() as destination:
        shard(destination, 0, 3, "one")
        destination._uploads[0].result()
        raise error
    assert set(there(bucket)) == {MARK, "train-00000-of-00003.tfrecord"}
    assert on_disk(tmp_path) == []


def test_a_finished_data_set_outlives_a_run_that_fails_before_it_uploads(bucket):
    publish("one")
    before = there(bucket)
    with pytest.raises(UserError), published(overwrite=True):
        raise UserError("no row of the CSV became an example")
    assert there(bucket) == before


def test_a_run_that_had_begun_to_replace_a_data_set_leaves_none(bucket):
    publish("one")
    bucket.requests.clear()
    with pytest.raises(UserError), published(overwrite=True) as destination:
        shard(destination, 0, 2, "two")
        destination._uploads[0].result()
        bucket.put(f"{DATA}/dataset.json", b"a leftover that a retried request has brought back")
        raise UserError("no")
    assert there(bucket) == {}
    did = changes(bucket)
    assert did[2] == "-dataset.json", "it never stands beside too few shards"


def test_a_refusal_after_dataset_json_was_written_leaves_the_data_set(bucket):

    def before(request):
        if request.uri.endswith(MARK) and request.verb == "remove":
            raise exceptions.Forbidden("no")

    bucket.before = before
    publish("one")
    assert set(there(bucket)) == {MARK, *names()}, "the lock expires by itself"


def test_a_signal_right_after_dataset_json_leaves_a_finished_data_set(bucket, monkeypatch):
    finish = publishing._Bucket.finish

    def stopped(destination):
        finish(destination)
        raise Stopped("SIGTERM")

    monkeypatch.setattr(publishing._Bucket, "finish", stopped)
    with pytest.raises(Stopped):
        publish("one")
    assert set(there(bucket)) == names()


def taken(bucket):
    """Lets another run take the lock."""
    owner = {"job_id": "other", "attempt": 1, "host": "other", "pid": 7, "heartbeat": 0.0}
    bucket.put(f"{DATA}/{MARK}", json.dumps(owner).encode())


@pytest.mark.parametrize("error", [UserError(""), LostService("")])
def test_what_has_gone_to_another_run_is_left_alone(bucket, error):
    with pytest.raises(type(error)), published() as destination:
        shard(destination, 0, 3, "one")
        destination._uploads[0].result()
        taken(bucket)
        raise error
    assert there(bucket)["train-00000-of-00003.tfrecord"] == b"one 0"
    assert json.loads(there(bucket)[MARK])["job_id"] == "other"


def test_a_run_that_has_lost_the_folder_uploads_nothing_more(bucket):
    with pytest.raises(LostPeer), published() as destination:
        taken(bucket)
        fill(destination, "one")
    assert set(there(bucket)) == {MARK}


@pytest.mark.parametrize("last", ["train-00002-of-00003.tfrecord", "rejects.csv"])
def test_a_run_that_loses_the_folder_late_does_not_write_dataset_json(bucket, last):
    def before(request):
        if request.uri.endswith(last) and request.verb in ("upload", "write"):
            bucket.before = lambda _: None
            taken(bucket)

    bucket.before = before
    with pytest.raises(LostPeer):
        publish("one")
    assert "dataset.json" not in there(bucket)
    assert ("rejects.csv" in there(bucket)) == (last == "rejects.csv")


def test_a_run_that_has_lost_the_folder_does_not_remove_the_data_set_there(bucket):
    publish("one")
    before = there(bucket)
    with pytest.raises(LostPeer), published(overwrite=True) as destination:
        taken(bucket)
        fill(destination, "two")
    assert there(bucket).items() >= before.items()


def test_a_failure_of_the_program_in_the_removal_is_not_hidden(bucket, monkeypatch):
    with pytest.raises(ZeroDivisionError), published() as destination:
        shard(destination, 0, 3, "one")
        destination._uploads[0].result()

        def fail(uri, **options):
            raise ZeroDivisionError

        monkeypatch.setattr(publishing.objects, "remove", fail)
        raise UserError("no")
    assert MARK in there(bucket), "what is left belongs to the next run"


def test_the_folder_of_a_killed_run_is_removed_and_others_are_not(bucket, tmp_path):
    with publishing._scratch(DATA) as folder:
        prefix = folder.name[: folder.name.rindex("-") + 1]
    for name in (f"{prefix}left", f"{prefix[:-2]}x-other"):
        (tmp_path / "scratch" / name).mkdir()
    (tmp_path / "scratch" / f"{prefix}left" / "train-00000-of-00001.tfrecord").touch()
    (tmp_path / "scratch" / f"{prefix}no-folder").touch()
    publish("one")
    assert sorted(on_disk(tmp_path)) == sorted((f"{prefix[:-2]}x-other", f"{prefix}no-folder")), "what resists is left"
