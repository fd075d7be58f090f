"""What a run on Cloud Storage writes, in which order, and what it leaves as it is."""

import json
import os
import socket
import tempfile
from concurrent.futures import Future
from pathlib import Path

import pytest
from etils import epath

from tests.support.published import DATA, MARK, bucket_with_notes, changes, fill, names, on_disk, publish, published, shard, there
from trainer.dataset import manifest
from trainer.errors import LostService, UserError
from trainer.job import lock
from trainer.preparation import publishing


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return bucket_with_notes(monkeypatch, tmp_path)


def test_a_data_set_is_complete_when_its_dataset_json_appears(bucket, tmp_path):
    with published() as destination:
        assert destination.verb == "writing and uploading"
        fill(destination, "one")
    assert set(there(bucket)) == names()
    assert there(bucket)["train-00002-of-00003.tfrecord"] == b"one 2"
    did = changes(bucket)
    assert did[-1] == "+dataset.json"
    assert did[-4:-1] == ["+near_duplicates.csv", "+preview.html", "+rejects.csv"]
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
    assert changes(bucket) == []
    assert not bucket.asked("write"), "a lock would mark the files as this run's"


def test_a_folder_below_is_not_part_of_the_data_set(bucket):
    bucket.put(f"{DATA}/old/train-00000-of-00001.tfrecord", b"mine")
    publish("one")
    assert there(bucket)["old/train-00000-of-00001.tfrecord"] == b"mine"
    assert {request.options["delimiter"] for request in bucket.asked("list")} == {"/"}, "it may hold a million files"


def test_a_run_is_known_by_its_host_and_user(bucket):
    with published() as destination:
        owner = json.loads(there(bucket)[MARK])["job_id"]
        fill(destination, "one")
    assert owner == f"prepare-{socket.gethostname()}-{os.getuid()}"


def test_a_run_of_another_host_keeps_the_folder(bucket):
    owner = {"job_id": "prepare-other", "attempt": 1, "host": "other", "pid": 7, "heartbeat": lock.time.time()}
    bucket.put(f"{DATA}/{MARK}", json.dumps(owner).encode())
    with pytest.raises(UserError, match=r"belongs to job prepare-other \(process 7 on other, .*choose another --output"):
        publish("one")
    assert set(there(bucket)) == {MARK}


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
        assert options == {"cancel_futures": True}, "else it would upload what waits"
        type(self).is_shut_down = True


def test_at_most_eight_shards_wait_for_their_upload(bucket, monkeypatch):
    class Counting(Pool):
        pass

    monkeypatch.setattr(publishing, "ThreadPoolExecutor", Counting)
    publish("one", 20)
    assert Counting.most == 8
    assert Counting.is_shut_down, "no thread is left"
    assert set(there(bucket)) == names(20)


def test_uploads_that_wait_when_a_run_fails_never_begin(bucket, monkeypatch):
    monkeypatch.setattr(publishing, "ThreadPoolExecutor", Pool)
    with pytest.raises(LostService), published() as destination:
        shard(destination, 0, 3, "one")
        raise LostService("no answer")
    assert set(there(bucket)) == {MARK}
