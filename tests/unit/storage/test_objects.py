"""Objects of Cloud Storage: which requests go to Google's client, with which limits, and what becomes of their answers."""

import logging
import threading
import time
from pathlib import Path

import google.auth.credentials
import pytest
import requests
from google.api_core import exceptions
from requests.adapters import BaseAdapter

from tests.support import buckets, clock
from trainer.errors import LostService, UserError
from trainer.storage import credentials, failures, objects, patience

X = "gs://posters/films/x.jpg"


@pytest.fixture
def bucket(monkeypatch):
    clock.for_retries(monkeypatch)
    return buckets.in_memory(monkeypatch, "posters")


@pytest.mark.parametrize(
    ("verb", "operation"),
    [
        ("read", lambda path: objects.read(X)),
        ("write", lambda path: objects.write(X, b"1")),
        ("upload", lambda path: objects.upload(path, X)),
        ("copy", lambda path: objects.copy(X, f"{X}2")),
        ("remove", lambda path: objects.remove(X)),
        ("stat", lambda path: objects.stat(X)),
        ("bucket", lambda path: objects.check_bucket(X)),
        ("list", lambda path: list(objects.below("gs://posters/films"))),
        ("list", lambda path: objects.names("gs://posters/films")),
        ("stat", lambda path: objects.reader(X)),
        ("open", lambda path: objects.reader(X)),
    ],
)
def test_every_request_has_the_idle_time_and_the_retries_of_the_environment(bucket, tmp_path, verb, operation):
    (tmp_path / "file").touch()
    bucket.put(X, b"content")
    operation(tmp_path / "file")
    (request,) = bucket.asked(verb)
    assert request.options["timeout"] == patience.patience().idle
    assert request.options["retry"] is failures.retry()


def test_a_written_object_is_read_with_its_generation(bucket):
    generation = objects.write(X, b"content")
    assert objects.read_generation(X) == (b"content", generation)
    assert objects.read(X) == b"content"
    assert objects.stat(X) == objects.Object(X, 7, objects.crc32c([b"con", b"tent"]), generation)
    (request,) = bucket.asked("write")
    assert request.options["content_type"] == "image/jpeg"
    assert request.options["checksum"] == "crc32c"
    assert {request.options["checksum"] for request in bucket.asked("read")} == {"crc32c"}
    assert all(request.options["raw_download"] for request in bucket.asked("read")), "stored gzip is not unpacked"


def test_an_object_of_no_known_type_is_binary(bucket):
    objects.write("gs://posters/ckpt.data", b"")
    assert bucket.asked("write")[0].options["content_type"] == "application/octet-stream"


def test_a_write_succeeds_only_on_the_demanded_generation(bucket):
    first = objects.write(X, b"1", generation=0)
    with pytest.raises(failures.Changed):
        objects.write(X, b"2", generation=0)
    second = objects.write(X, b"3", generation=first)
    with pytest.raises(failures.Changed):
        objects.remove(X, generation=first)
    objects.remove(X, generation=second)
    objects.remove(X)
    assert bucket.content == {}


def test_a_file_is_uploaded_in_pieces_with_its_checksum(bucket, tmp_path):
    (tmp_path / "film").write_bytes(b"content")
    sent = objects.upload(tmp_path / "film", X)
    assert sent == objects.Object(X, 7, objects.crc32c([b"content"]), bucket.generation(X))
    (request,) = bucket.asked("upload")
    assert request.options["content_type"] == "image/jpeg"
    assert request.options["checksum"] == "crc32c"
    # Cloud Storage demands a multiple of 256 KiB.
    assert request.options["chunk_size"] > 0
    assert request.options["chunk_size"] % (256 << 10) == 0


def test_content_that_arrives_damaged_is_read_again(bucket, monkeypatch):
    time_of_retries = clock.for_retries(monkeypatch)
    bucket.put(X, b"content")
    blob = type(objects._blob(X))
    download, left = blob.download_as_bytes, [2]

    def damage(self, **options):
        content = download(self, **options)
        left[0] -= 1
        return content if left[0] < 0 else b"damaged"

    monkeypatch.setattr(blob, "download_as_bytes", damage)
    assert objects.read(X) == b"content"
    assert len(time_of_retries.pauses) == 2
    left[0] = 10_000
    with pytest.raises(LostService, match=rf"^{X}: Cloud Storage does not answer \(DataCorruption\)"):
        objects.read(X)


def test_content_without_a_checksum_is_not_checked(bucket, monkeypatch):
    bucket.put(X, b"content")
    monkeypatch.setattr(type(objects._blob(X)), "describe", lambda blob: setattr(blob, "crc32c", None))
    assert objects.read(X) == b"content"
    assert objects.stat(X).crc32c == ""


def test_a_copy_goes_on_until_it_is_complete(bucket):
    bucket.put(X, b"content")
    bucket.rewrites = 3
    objects.copy(X, f"{X}2")
    assert bucket.content == {X: b"content", f"{X}2": b"content"}
    assert [request.options["token"] for request in bucket.asked("copy")] == [None, "1", "2"]


def test_the_objects_of_a_folder_are_listed_with_and_without_its_subfolders(bucket):
    for name in ("films/a", "films/deep/b", "films/deep/", "films2/c", "films/", "d"):
        bucket.put(f"gs://posters/{name}", name.encode())
    for folder in ("gs://posters/films", "gs://posters/films/"):
        assert [found.uri for found in objects.below(folder)] == [
            f"gs://posters/films/{name}" for name in ("", "a", "deep/", "deep/b")
        ]
        assert objects.names(folder) == ["a", "deep"]
    assert [found.uri for found in objects.below("gs://posters/films", deep=False)] == [
        "gs://posters/films/",
        "gs://posters/films/a",
    ]
    assert objects.names("gs://posters") == objects.names("gs://posters/") == ["d", "films", "films2"]
    (first, *_) = objects.below("gs://posters")
    assert first == objects.Object("gs://posters/d", 1, objects.crc32c([b"d"]), bucket.generation("gs://posters/d"))
    for name in ("name", "size", "crc32c", "generation", "prefixes", "nextPageToken"):
        assert name in bucket.asked("list")[0].options["fields"]


def test_an_open_object_is_read_at_any_position_as_long_as_it_stays_the_same(bucket):
    generation = bucket.put(X, b"0123456789")
    with objects.reader(X) as file:
        assert file.readable()
        assert file.seekable()
        assert file.seek(7) == file.tell() == 7
        assert file.read(2) == b"78"
        assert file.seek(-3, 2) == 7
        assert file.read(None) == b"789"
        assert file.seek(0) == 0
        assert file.read() == b"0123456789"
        bucket.put(X, b"another")
        file.seek(0)
        with pytest.raises(failures.Changed):
            file.read(1)
    (request,) = bucket.asked("open")
    assert request.options["if_generation_match"] == generation
    assert request.options["chunk_size"] == 128 << 10
    with pytest.raises(failures.Changed):
        objects.reader(X, generation=generation)
    with pytest.raises(FileNotFoundError):
        objects.reader(f"{X}2")


def test_a_read_of_an_open_object_that_fails_says_which(bucket):
    bucket.put(X, b"0123456789")
    file = objects.reader(X)

    def fail(_):
        raise exceptions.ServiceUnavailable("busy")

    bucket.before = fail
    with pytest.raises(LostService, match=f"^{X}: Cloud Storage does not answer"):
        file.read(1)


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        (lambda: objects.read(X), "storage.objects.get"),
        (lambda: objects.write(X, b""), "storage.objects.create"),
        (lambda: objects.upload(Path("/dev/null"), X), "storage.objects.create"),
        (lambda: objects.copy(X, f"{X}2"), "storage.objects.get"),
        (lambda: objects.remove(X), "storage.objects.delete"),
        (lambda: objects.stat(X), "storage.objects.get"),
        (lambda: objects.check_bucket(X), "storage.buckets.get"),
        (lambda: list(objects.below("gs://posters/films")), "storage.objects.list"),
        (lambda: objects.names("gs://posters/films"), "storage.objects.list"),
        (lambda: objects.reader(X), "storage.objects.get"),
    ],
)
def test_a_refused_request_names_the_permission_that_it_needs(bucket, operation, permission):
    def refuse(_):
        raise exceptions.Forbidden("no access")

    bucket.before = refuse
    with pytest.raises(UserError, match=rf"^gs://posters\S*: somebody@project lacks {permission} on gs://posters: grant it"):
        operation()


def test_a_bucket_that_does_not_exist_is_named(bucket):
    for operation in (
        lambda: objects.check_bucket("gs://nowhere/x"),
        lambda: objects.write("gs://nowhere/x", b""),
        lambda: list(objects.below("gs://nowhere/x")),
        lambda: objects.names("gs://nowhere/x"),
    ):
        with pytest.raises(UserError, match=r"there is no bucket gs://nowhere: correct the name, or create it"):
            operation()


def test_a_bucket_is_not_an_object(bucket):
    for uri in ("gs://posters", "gs://posters/"):
        with pytest.raises(UserError, match=rf"^{uri} is a bucket: name a path in it, gs://posters/PATH$"):
            objects.read(uri)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("gs://posters", ("posters", "")),
        ("gs://posters/a/b c", ("posters", "a/b c")),
        ("gs://my.posters_2-x/a", ("my.posters_2-x", "a")),
        ("gs://1.2.3.x/a", ("1.2.3.x", "a")),
    ],
)
def test_a_uri_consists_of_a_bucket_and_a_name(uri, parts):
    assert objects.parse(uri) == parts


@pytest.mark.parametrize(
    "uri",
    ["gs://", "gs:///x", "gs://a..b/x", "gs://192.168.0.1/x", "gs://UPPER/x", "gs://a/x", "gs://-posters/x", "gs://post ers/x"],
)
def test_an_impossible_bucket_name_is_refused(uri):
    with pytest.raises(UserError, match=r"cannot be a bucket's name: write gs://BUCKET/PATH"):
        objects.parse(uri)


class Refusing(BaseAdapter):
    """Answers every request that the token is not valid."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def send(self, request, *_, **options):
        self.sent.append(request)
        response = requests.Response()
        response.status_code, response.request, response.raw = 401, request, None
        response._content = b"{}"
        return response

    def close(self):
        pass


class Token(google.auth.credentials.Credentials):
    def __init__(self):
        super().__init__()
        self.token, self.refreshed = "secret", 0

    def refresh(self, request):
        self.refreshed += 1


@pytest.fixture
def token(monkeypatch):
    """The only credentials: the client looks for no others."""
    made = Token()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(credentials, "load", lambda: made)
    objects.client.cache_clear()
    yield made
    objects.client.cache_clear()


def test_the_client_keeps_a_connection_for_each_thread_and_renews_a_refused_token_once(token, monkeypatch):
    monkeypatch.setattr(logging.getLogger("urllib3.connectionpool"), "level", logging.NOTSET)
    session = objects.client()._http
    assert session.get_adapter("https://storage.googleapis.com").poolmanager.connection_pool_kw["maxsize"] == objects.CONNECTIONS
    assert objects.CONNECTIONS == 32
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.WARNING), "a retried connection is no news"
    adapter = Refusing()
    session.mount("https://storage.googleapis.com/", adapter)
    with pytest.raises(UserError, match=r"^gs://posters/x: Cloud Storage refuses the credentials of the account of"):
        objects.stat("gs://posters/x")
    assert len(adapter.sent) == 2
    assert token.refreshed == 1
    assert "poster-trainer" in adapter.sent[0].headers["User-Agent"]
    assert adapter.sent[0].headers["authorization"] == "Bearer secret"


def test_threads_that_start_together_share_a_client(monkeypatch):
    made = []

    @objects.functools.cache
    def create():
        time.sleep(0.01)  # Long enough for the other threads to come.
        made.append(object())
        return made[-1]

    monkeypatch.setattr(objects, "client", create)
    threads = [threading.Thread(target=objects._client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
