"""Objects of Cloud Storage, failures of requests, and the lock: through Google's unmodified client, in this process."""

import base64
import contextlib
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator

import google_crc32c
import pytest
from etils import epath
from google.auth.compute_engine import _metadata

from tests.fakes.storage.faults import Plan
from tests.fakes.storage.server import Storage
from tests.support import drawn
from trainer.dataset import manifest
from trainer.errors import LostService, UserError
from trainer.job import lock_file
from trainer.storage import credentials, failures, files, objects


@contextlib.contextmanager
def reached(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Resets the clients of Cloud Storage in this process, with another environment for the time of a block."""
    made = (credentials.load, objects.client, failures.retry)
    with monkeypatch.context() as patch:
        patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        for cached in made:
            cached.cache_clear()
        # google-auth reads the address of the metadata server once, when this module is imported.
        importlib.reload(_metadata)
        yield
    for cached in made:
        cached.cache_clear()
    importlib.reload(_metadata)


@pytest.fixture
def folder(cloud: Storage, monkeypatch, request) -> Iterator[str]:
    """A separate folder for each test."""
    with reached(cloud.environment, monkeypatch):
        yield f"gs://posters/{request.node.name}"
    cloud.clear()


def test_a_written_object_can_be_read(folder):
    content = bytes(range(256)) * 1000
    generation = objects.write(f"{folder}/a b?#.bin", content)
    assert objects.read_generation(f"{folder}/a b?#.bin") == (content, generation)
    found = objects.stat(f"{folder}/a b?#.bin")
    crc = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    assert (found.size, found.crc32c, found.generation) == (len(content), crc, generation)
    objects.write(f"{folder}/deep/er", b"")
    assert [entry.uri for entry in objects.below(folder)] == [f"{folder}/a b?#.bin", f"{folder}/deep/er"]
    objects.remove(f"{folder}/deep/er")
    objects.remove(f"{folder}/deep/er")
    with pytest.raises(FileNotFoundError, match="deep/er"):
        objects.read(f"{folder}/deep/er")


def test_a_large_file_is_uploaded_in_pieces_and_read_at_any_position(folder, cloud, tmp_path):
    path = tmp_path / "large"
    content = b"".join(number.to_bytes(4, "big") for number in range(6 << 20))
    path.write_bytes(content)
    cloud.inject(Plan(kinds=("503", "reset"), rate=0.3, seed=2, match="upload"))
    sent = objects.upload(path, f"{folder}/large")
    assert cloud.counts(), "nothing went wrong, and so nothing was shown"
    assert sent.size == len(content)
    assert cloud.get(f"{folder}/large") == content
    with objects.reader(f"{folder}/large") as file:
        for offset, size in ((10 << 20, 300_000), (7, 5), (len(content) - 3, 10)):
            file.seek(offset)
            assert file.read(size) == content[offset : offset + size]


def test_only_one_of_two_writes_for_the_same_generation_succeeds(folder):
    first = objects.write(f"{folder}/x", b"1", generation=0)
    with pytest.raises(failures.Changed):
        objects.write(f"{folder}/x", b"2", generation=0)
    objects.write(f"{folder}/x", b"3", generation=first)
    with pytest.raises(failures.Changed):
        objects.remove(f"{folder}/x", generation=first)
    assert objects.read(f"{folder}/x") == b"3"


@pytest.mark.parametrize("kind", ["429", "500", "503", "reset", "lost_answer", "truncated", "slow", "401"])
def test_transient_errors_are_retried(folder, cloud, kind):
    cloud.put(f"{folder}/x", b"content")
    cloud.inject(Plan(kinds=(kind,), count=1 if kind == "401" else 2))
    assert objects.read(f"{folder}/x") == b"content"
    objects.write(f"{folder}/y", b"other")
    assert cloud.get(f"{folder}/y") == b"other"
    assert cloud.counts()[kind] >= 1


def test_a_request_whose_refusal_is_cut_off_is_retried(folder, cloud):
    cloud.inject(Plan(kinds=("truncated",), count=1))
    with pytest.raises(FileNotFoundError):
        objects.read(f"{folder}/x")
    assert cloud.counts() == {"truncated": 1}


def test_an_outage_is_reported_with_the_uri(folder, cloud, monkeypatch):
    monkeypatch.setenv("GCS_RETRY_CONFIG_MAX_RETRIES", "2")
    monkeypatch.setenv("GCS_REQUEST_IDLE_TIMEOUT_SECS", "0.5")
    failures.retry.cache_clear()
    cloud.inject(Plan(kinds=("503",)))
    for attempt in (objects.read, objects.stat, lambda uri: objects.write(uri, b"x"), objects.remove):
        began = time.monotonic()
        with pytest.raises(
            LostService, match=rf"{folder}/x: Cloud Storage does not answer \(status 503\): run the same command again"
        ):
            attempt(f"{folder}/x")
        assert time.monotonic() - began < 5


def test_a_missing_permission_is_named_with_its_bucket(folder, cloud):
    cloud.inject(Plan(kinds=("403",)))
    said = r"x: trainer@.* lacks storage.objects.get on gs://posters: grant it, .* roles storage.objectUser and"
    with pytest.raises(UserError, match=said):
        objects.read(f"{folder}/x")
    with pytest.raises(UserError, match=r"lacks storage.objects.create on gs://posters"):
        objects.write(f"{folder}/x", b"")
    with pytest.raises(UserError, match=r"lacks storage.objects.list on gs://posters"):
        list(objects.below(folder))
    with pytest.raises(UserError, match=r"lacks storage.buckets.get on gs://posters"):
        objects.check_bucket(folder)
    assert len([entry for entry in cloud.requests() if entry["status"] == 403 and "/o" in entry["target"]]) == 3, "tried once each"


def test_a_bucket_that_does_not_exist_is_named(folder):
    for attempt in (
        lambda: objects.read("gs://nowhere/x"),
        lambda: objects.write("gs://nowhere/x", b""),
        lambda: list(objects.below("gs://nowhere/x")),
        lambda: objects.check_bucket("gs://nowhere/x"),
    ):
        with pytest.raises((UserError, FileNotFoundError), match="nowhere"):
            attempt()
    with pytest.raises(UserError, match=r"gs://nowhere/x: there is no bucket gs://nowhere: .* gcloud storage buckets create"):
        objects.write("gs://nowhere/x", b"")
    objects.check_bucket("gs://posters/x")
    with pytest.raises(UserError, match=r"'No_Bucket!' cannot be a bucket's name"):
        objects.read("gs://No_Bucket!/x")
    with pytest.raises(UserError, match=r"gs://posters is a bucket: name a path in it"):
        objects.read("gs://posters")


def test_a_revoked_token_is_renewed_and_a_token_that_is_always_refused_is_a_user_error(folder, cloud):
    objects.write(f"{folder}/x", b"1")
    cloud.revoke()
    assert objects.read(f"{folder}/x") == b"1"
    cloud.inject(Plan(kinds=("401",)))
    with pytest.raises(UserError, match=r"Cloud Storage refuses the credentials of trainer@"):
        objects.read(f"{folder}/x")


def test_a_metadata_server_is_waited_for(cloud, monkeypatch, caplog):
    cloud.refuse_metadata(seconds=6)
    with reached(cloud.metadata_environment, monkeypatch), caplog.at_level(logging.WARNING):
        cloud.put("gs://posters/waited", b"1")
        began = time.monotonic()
        assert objects.read("gs://posters/waited") == b"1"
        assert time.monotonic() - began > 3
    assert caplog.text.count("no credentials for Cloud Storage yet: trying for 60 s") == 1
    cloud.clear()


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make test-cloud")
def test_the_replacement_of_a_token_is_waited_for_too(cloud, monkeypatch):
    with reached(cloud.metadata_environment, monkeypatch):
        objects.write("gs://posters/renewed", b"1")
        cloud.revoke()
        # google-auth itself retries for a few seconds.
        cloud.refuse_metadata(seconds=20)
        assert objects.read("gs://posters/renewed") == b"1"
        # An outage that outlasts the deadline is not the user's to fix.
        monkeypatch.setenv("GCS_RETRY_CONFIG_MAX_RETRIES", "0")
        failures.retry.cache_clear()
        cloud.revoke()
        cloud.refuse_metadata(seconds=30)
        with pytest.raises(LostService, match=r"gs://posters/renewed: "):
            objects.read("gs://posters/renewed")
        cloud.refuse_metadata()
    cloud.clear()


def test_damaged_content_is_read_again(folder, monkeypatch):
    objects.write(f"{folder}/x", b"content" * 1000)
    blob = objects._blob(f"{folder}/x")
    download = type(blob).download_as_bytes
    damaged = [2]

    def damage(self, **options):
        content = download(self, **options)
        damaged[0] -= 1
        return content if damaged[0] < 0 else b"x" + content[1:]

    monkeypatch.setattr(type(blob), "download_as_bytes", damage)
    assert objects.read(f"{folder}/x") == b"content" * 1000
    assert damaged[0] == -1


def test_no_name_of_an_object_leads_out_of_its_folder(folder, cloud, tmp_path):
    cloud.put(f"{folder}/model/saved_model.pb", b"1")
    with files.copied_to_disk(epath.Path(folder) / "model") as copy:
        assert (copy / "saved_model.pb").read_bytes() == b"1"
    for name in (f"..{tmp_path}/out", f"/{tmp_path}/out", "a/../../out"):
        cloud.put(f"{folder}/model/{name}", b"2")
        with pytest.raises(UserError, match="has a name that leads out of its folder"):
            files.copied_to_disk(epath.Path(folder) / "model").__enter__()
        cloud.delete(f"{folder}/model/{name}")
    assert not list(tmp_path.iterdir())


def test_a_missing_or_incomplete_data_set_is_named_by_its_path(folder, cloud, tmp_path):
    with pytest.raises(UserError, match=rf"{folder}/data is not a data set, it has no dataset.json"):
        manifest.load(f"{folder}/data")
    drawn.dataset(tmp_path, train=4, validation=2, test=2, shard_count=2)
    cloud.upload_folder(tmp_path, f"{folder}/data")
    assert manifest.load(f"{folder}/data").split("train").examples == 4
    name = f"{folder}/data/train-00001-of-00002.tfrecord"
    content = cloud.get(name)
    cloud.put(name, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{name} has another CRC32C than dataset.json says"):
        manifest.load(f"{folder}/data")
    cloud.delete(name)
    with pytest.raises(UserError, match=rf"{name} is missing"):
        manifest.load(f"{folder}/data")


def test_missing_credentials_are_reported_at_once(cloud, monkeypatch):
    environment = {**cloud.environment, "GOOGLE_APPLICATION_CREDENTIALS": ""}
    with reached(environment, monkeypatch):
        began = time.monotonic()
        with pytest.raises(UserError, match=r"no credentials for Cloud Storage .* gcloud auth application-default login"):
            objects.read("gs://posters/x")
        assert time.monotonic() - began < 5


def test_no_token_is_logged(folder, cloud, caplog):
    with caplog.at_level(logging.DEBUG):
        objects.write(f"{folder}/x", b"1")
        token = credentials.load().token
        cloud.inject(Plan(kinds=("403",)))
        with pytest.raises(UserError) as failed:
            objects.read(f"{folder}/x")
    assert token
    assert token not in caplog.text
    assert token not in str(failed.value)


def test_only_one_of_many_takers_gets_the_lock(folder):
    locks = [lock_file.at(epath.Path(folder) / "LOCK.json") for _ in range(8)]
    for file in locks:
        assert file.read() is None
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n, file=file: taken.append(n) if file.take(str(n).encode()) else None)
        for n, file in enumerate(locks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert locks[0].read() == str(taken[0]).encode()


def test_a_lock_is_taken_even_if_the_answer_was_lost(folder, cloud):
    cloud.inject(Plan(kinds=("lost_answer",), match="POST .*upload", count=1))
    file = lock_file.at(epath.Path(folder) / "LOCK.json")
    assert file.read() is None
    assert file.take(b"mine")
    assert cloud.counts()["lost_answer"] == 1
    file.renew(b"mine too")
    assert file.read() == b"mine too"
