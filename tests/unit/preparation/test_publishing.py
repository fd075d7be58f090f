"""What a run on Cloud Storage writes and in which order, what it leaves behind, and whose lock it leaves alone."""

import dataclasses
import errno
import json
import logging
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from etils import epath
from google.api_core import exceptions

from tests.support import buckets
from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Shard, Split
from trainer.errors import LostPeer, LostService, Stopped, UserError
from trainer.job import lock
from trainer.preparation import publishing
from trainer.storage import files

DATA = "gs://posters/data"
MARK = ".preparing.json"
TABLES = ("near_duplicates.csv", "rejects.csv")


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket with notes beside the data set; temporary folders are in the test's own."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    made = buckets.in_memory(monkeypatch, "posters")
    made.put(f"{DATA}/notes.txt", b"mine")
    return made


def published(*, overwrite=False):
    return publishing.published(epath.Path(DATA), overwrite=overwrite)


def shard(destination, number, count, mark):
    """Writes a shard as `writing` does."""
    file = destination.folder / manifest.shard_name("train", number, count)
    file.write_text(f"{mark} {number}")
    made = Shard(file.name, 1, file.stat().st_size, files.checksum(epath.Path(file)))
    destination.add(made)
    return made


def fill(destination, mark, count=3):
    """Writes a data set as `trainer.prepare` does."""
    shards = tuple(shard(destination, number, count, mark) for number in range(count))
    for name in TABLES:
        (destination.folder / name).write_text(mark)
    dataset = Dataset(epath.Path("-"), "", ("Drama",), 48, 32, "jpeg", {"train": Split(count, {"Drama": 1}, shards)})
    dataset = dataclasses.replace(dataset, fingerprint=manifest.fingerprint(dataset))
    (destination.folder / "dataset.json").write_text(manifest.to_text(dataset))


def publish(mark, count=3, *, overwrite=False):
    with published(overwrite=overwrite) as destination:
        fill(destination, mark, count)


def names(count=3):
    return {"dataset.json", *TABLES, *(manifest.shard_name("train", number, count) for number in range(count))}


def there(bucket):
    """Returns what the data set's folder holds, by name; the notes must be unchanged."""
    found = {uri.removeprefix(f"{DATA}/"): content for uri, content in bucket.content.items()}
    assert found.pop("notes.txt") == b"mine"
    return found


def changes(bucket):
    """Returns the names of the objects that were written and removed, in this order, without those of the lock."""
    verbs = {"upload": "+", "write": "+", "remove": "-"}
    return [
        f"{verbs[request.verb]}{request.uri.rpartition('/')[2]}"
        for request in bucket.requests
        if request.verb in verbs and not request.uri.endswith(MARK)
    ]


def on_disk(tmp_path):
    return [path.name for path in (tmp_path / "scratch").iterdir() if path.suffix != ".lock"]


def refuse(*names, verb=None):
    """Returns a hook that refuses requests for objects."""

    def before(request):
        if request.uri.rpartition("/")[2] in names and verb in (None, request.verb):
            raise exceptions.Forbidden("no")

    return before


def test_a_data_set_is_complete_when_its_dataset_json_appears(bucket, tmp_path):
    with published() as destination:
        assert destination.verb == "writing and uploading"
        fill(destination, "one")
    assert set(there(bucket)) == names()
    assert there(bucket)["train-00002-of-00003.tfrecord"] == b"one 2"
    did = changes(bucket)
    assert did[-1] == "+dataset.json"
    assert did[-3:-1] == ["+near_duplicates.csv", "+rejects.csv"]
    assert manifest.load(DATA).split("train").examples == 3
    assert on_disk(tmp_path) == []


def test_a_shard_leaves_the_disk_when_it_is_uploaded(bucket):
    with published() as destination:
        made = shard(destination, 0, 1, "one")
        destination._uploads[0].result()
        assert not (destination.folder / made.name).exists()
        (destination.folder / made.name).write_text("one 0")
        fill(destination, "one", 1)


def test_a_finished_data_set_is_kept_without_overwrite(bucket):
    publish("one")
    before = there(bucket)
    bucket.requests.clear()
    with pytest.raises(UserError, match=rf"^--output={DATA} holds a finished data set: add --overwrite to replace it, or choose"):
        publish("two")
    assert there(bucket) == before
    assert not {request.verb for request in bucket.requests} & {"write", "upload", "remove"}, "not even a lock was written"


def test_overwriting_removes_dataset_json_first_and_leaves_nothing_of_the_old(bucket):
    publish("one", 5)
    bucket.requests.clear()
    publish("two", 2, overwrite=True)
    assert set(there(bucket)) == names(2)
    assert {content for name, content in there(bucket).items() if name.startswith("train")} == {b"two 0", b"two 1"}
    did = changes(bucket)
    assert did[0] == "-dataset.json"
    assert did[-1] == "+dataset.json"
    assert sorted(did[-6:-1]) == [f"-{manifest.shard_name('train', number, 5)}" for number in range(5)]
    assert did.count("-dataset.json") == 1


def test_a_shard_that_is_there_already_is_not_uploaded_again(bucket, tmp_path):
    publish("one")
    bucket.requests.clear()
    publish("one", overwrite=True)
    assert bucket.asked("upload") == []
    assert changes(bucket)[0] == "-dataset.json"
    assert set(there(bucket)) == names()
    assert on_disk(tmp_path) == []


def test_a_data_set_whose_dataset_json_is_damaged_can_be_overwritten(bucket):
    publish("one", 5)
    bucket.put(f"{DATA}/dataset.json", b"{")
    publish("two", 2, overwrite=True)
    assert set(there(bucket)) == names(2)


def test_foreign_files_with_the_names_of_shards_are_left_alone(bucket):
    for name in ("train-00001-of-00009.tfrecord", "rejects.csv"):
        bucket.put(f"{DATA}/{name}", b"mine")
    with pytest.raises(UserError, match=rf"^--output={DATA} holds rejects.csv, which no dataset.json there lists: choose another"):
        publish("one")
    del bucket.content[f"{DATA}/rejects.csv"]
    with pytest.raises(UserError, match=r"holds train-00001-of-00009\.tfrecord, which no"):
        publish("one", overwrite=True)
    assert there(bucket) == {"train-00001-of-00009.tfrecord": b"mine"}


def test_a_folder_below_is_not_part_of_the_data_set(bucket):
    bucket.put(f"{DATA}/old/train-00000-of-00001.tfrecord", b"mine")
    publish("one")
    assert there(bucket)["old/train-00000-of-00001.tfrecord"] == b"mine"


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


def test_a_run_of_another_host_keeps_the_folder(bucket):
    owner = {"job_id": "prepare-other", "attempt": 1, "host": "other", "pid": 7, "heartbeat": lock.time.time()}
    bucket.put(f"{DATA}/{MARK}", json.dumps(owner).encode())
    with pytest.raises(UserError, match=r"belongs to job prepare-other \(process 7 on other, .*choose another --output"):
        publish("one")
    assert set(there(bucket)) == {MARK}


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
    bucket.before = refuse(MARK, verb="remove")
    publish("one")
    assert set(there(bucket)) == {MARK, *names()}, "the lock expires by itself"


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


class Pool:
    """Uploads only when somebody waits for it, and counts the uploads under way."""

    under_way = most = 0
    is_shut_down = False

    def __init__(self, threads):
        self.threads = threads

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        pool = type(self)
        pool.under_way += 1
        pool.most = max(pool.most, pool.under_way)

        class Lazy(Future):
            def result(self, timeout=None):
                pool.under_way -= 1
                return function(*arguments)

        return Lazy()

    def shutdown(self, **options):
        assert options == {"cancel_futures": True}
        type(self).is_shut_down = True


def test_at_most_eight_shards_wait_for_their_upload(bucket, monkeypatch):
    class Counting(Pool):
        pass

    monkeypatch.setattr(publishing, "ThreadPoolExecutor", Counting)
    publish("one", 20)
    assert Counting.most == 8
    assert Counting.is_shut_down, "no thread is left"
    assert set(there(bucket)) == names(20)


def test_a_folder_on_a_disk_is_staged(tmp_path):
    with publishing.published(epath.Path(tmp_path / "data"), overwrite=False) as destination:
        assert destination.verb == "writing"
        fill(destination, "one")
        assert not (tmp_path / "data" / "dataset.json").exists()
    assert {path.name for path in (tmp_path / "data").iterdir()} == names()
    with pytest.raises(UserError, match="add --overwrite"), publishing.published(epath.Path(tmp_path / "data"), overwrite=False):
        pass
    with publishing.published(epath.Path(tmp_path / "data"), overwrite=True) as destination:
        fill(destination, "two", 1)
    assert {path.name for path in (tmp_path / "data").iterdir()} == names(1)


def test_the_folder_of_a_killed_run_is_removed_and_others_are_not(bucket, tmp_path):
    with publishing._scratch(DATA) as folder:
        prefix = folder.name[: folder.name.rindex("-") + 1]
    for name in (f"{prefix}left", f"{prefix[:-2]}x-other"):
        (tmp_path / "scratch" / name).mkdir()
    (tmp_path / "scratch" / f"{prefix}left" / "train-00000-of-00001.tfrecord").touch()
    publish("one")
    assert on_disk(tmp_path) == [f"{prefix[:-2]}x-other"]


def test_two_runs_of_one_host_need_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/nowhere")
    with publishing._only_one_of_this_host("gs://bucket/data"):
        with pytest.raises(UserError, match="another process"), publishing._only_one_of_this_host("gs://bucket/data"):
            pass
        with publishing._only_one_of_this_host("gs://bucket/other"):
            pass
    with publishing._only_one_of_this_host("gs://bucket/data"):
        pass
    (file, *_) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    for path in tmp_path.iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), publishing._only_one_of_this_host("gs://bucket/data"):
        pass
    assert not (tmp_path / "elsewhere").exists()
