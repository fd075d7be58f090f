"""The Cloud Storage of `tests.fakes.storage` serves unmodified clients, and delivers the planned faults.

Clients run in separate processes, as `python -m tests.integration.test_storage_server FUNCTION ARGUMENT…`.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.storage import server
from tests.fakes.storage.faults import KINDS, Faults, Plan
from tests.fakes.storage.server import Ports, Storage
from tests.support.commands import ENVIRONMENT, REPOSITORY

_API = "storage.googleapis.com"
_NAME = "folder/a b+ü?#%2F.txt"  # With characters that must be encoded in a path.


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """The server; each test has its own bucket."""
    with server.storage() as started:
        yield started


@pytest.fixture
def bucket(storage: Storage, request: pytest.FixtureRequest) -> str:
    """The `gs://NAME` of a new bucket, without faults so far."""
    storage.clear()
    name = request.node.name.removeprefix("test_").replace("[", "-").replace("]", "").replace("_", "-")
    return storage.bucket(f"{name[:50]}-{time.monotonic_ns() % 10**6}")


def _elsewhere(environment: dict[str, str], function: str, *arguments: str) -> Any:
    """Calls a function of this file in another process, and returns its result."""
    command = (sys.executable, "-m", __name__, function, *arguments)
    done = subprocess.run(command, env=ENVIRONMENT | environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------------------------- TensorFlow


def tensorflow_works(bucket: str) -> dict[str, Any]:
    """Does the file operations of a training job with TensorFlow."""
    import tensorflow as tf

    gfile = tf.io.gfile
    records = [bytes([number]) * 3000 for number in range(200)]
    with tf.io.TFRecordWriter(f"{bucket}/data/part-0") as writer:
        for record in records:
            writer.write(record)
    gfile.copy(f"{bucket}/data/part-0", f"{bucket}/data/part-1")
    gfile.rename(f"{bucket}/data/part-1", f"{bucket}/data/part-2")
    paths = sorted(gfile.glob(f"{bucket}/data/part-*"))
    read = [record.numpy() for record in tf.data.TFRecordDataset(paths)]
    weights = tf.Variable(tf.random.stateless_normal((300, 1000), (1, 2)))
    path = tf.train.Checkpoint(weights=weights).save(f"{bucket}/checkpoints/ckpt")
    other = tf.Variable(tf.zeros((300, 1000)))
    tf.train.Checkpoint(weights=other).restore(tf.train.latest_checkpoint(f"{bucket}/checkpoints")).assert_consumed()
    gfile.makedirs(f"{bucket}/made")
    gfile.remove(f"{bucket}/data/part-2")
    return {
        "records": read == 2 * records,
        "paths": [path.removeprefix(bucket) for path in paths],
        "checkpoint": path.removeprefix(bucket),
        "restored": bool(tf.reduce_all(weights == other)),
        "made": gfile.isdir(f"{bucket}/made"),
        "size": gfile.stat(f"{bucket}/data/part-0").length,
    }


def _tensorflow_worked(outcome: dict[str, Any], storage: Storage, bucket: str) -> None:
    assert outcome == {
        "records": True,
        "paths": ["/data/part-0", "/data/part-2"],
        "checkpoint": "/checkpoints/ckpt-1",
        "restored": True,
        "made": True,
        "size": 200 * (3000 + 16),
    }
    assert set(storage.names(bucket)) >= {"data/part-0", "checkpoints/checkpoint", "checkpoints/ckpt-1.index", "made/"}
    assert storage.names(f"{bucket}/data") == ["part-0"]


def test_tensorflow_works_as_a_service_account(storage: Storage, bucket: str) -> None:
    _tensorflow_worked(_elsewhere(storage.environment, "tensorflow_works", bucket), storage, bucket)
    requests = storage.requests()
    assert "/oauth2/v4/token" in {request["target"] for request in requests}
    assert "metadata" not in {request["host"] for request in requests}
    assert storage.counts() == {}


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make test-cloud")
def test_tensorflow_survives_a_late_metadata_server_and_faults(storage: Storage, bucket: str) -> None:
    storage.refuse_metadata(requests=3)
    kinds = ("429", "500", "503", "reset", "truncated")
    # 5 % of these few requests would be too few.
    storage.inject(Plan(kinds, rate=0.1, seed=3, match=bucket.removeprefix("gs://")))
    _tensorflow_worked(_elsewhere(storage.metadata_environment, "tensorflow_works", bucket), storage, bucket)
    assert [request["status"] for request in storage.requests() if request["host"] == "metadata"][:4] == [503, 503, 503, 200]
    assert sum(storage.counts().values()) >= 4


# ------------------------------------------------------------------------------------------------------ google-cloud-storage


def google_works(bucket: str, revoked_at: str) -> dict[str, Any]:
    """Does the package's operations with google-cloud-storage. If there is a control port, revokes the tokens in between."""
    from google.api_core import exceptions
    from google.cloud import storage

    client = storage.Client()
    files = client.bucket(bucket.removeprefix("gs://"))
    small, large = files.blob(_NAME), files.blob("large")
    small.upload_from_string(b"small", if_generation_match=0)
    refused = []
    try:
        small.upload_from_string(b"again", if_generation_match=0)
    except exceptions.PreconditionFailed as error:
        refused.append(error.code)
    content = os.urandom(9 * 2**20)
    large.upload_from_string(content, checksum="crc32c")
    if revoked_at:
        Storage(Path(), Ports(0, 0, int(revoked_at), 0)).revoke()
    loaded = large.download_as_bytes(checksum="crc32c")
    pages = [blob.name for blob in files.list_blobs(page_size=1)]
    small.reload()
    for match in (1, small.generation):
        try:
            files.blob(_NAME).delete(if_generation_match=match)
        except exceptions.PreconditionFailed as error:
            refused.append(error.code)
    return {
        "small": None if small.exists() else "deleted",
        "large": loaded == content,
        "names": pages,
        "refused": refused,
    }


_GOOGLE_WORKED = {"small": "deleted", "large": True, "names": [_NAME, "large"], "refused": [412, 412]}


def test_googles_client_works_and_gets_a_new_token_after_a_revocation(storage: Storage, bucket: str) -> None:
    assert _elsewhere(storage.environment, "google_works", bucket, str(storage.ports.control)) == _GOOGLE_WORKED
    requests = storage.requests()
    assert [request["status"] for request in requests if request["host"] == _API].count(401) == 1
    assert "resumable" in "".join(request["target"] for request in requests)
    assert storage.names(bucket) == ["large"]


def test_googles_client_survives_a_late_metadata_server_and_faults(storage: Storage, bucket: str) -> None:
    # Not on its first request, which detects the server: after a 503 google-auth would assume that there is none.
    storage.refuse_metadata(requests=2, match="token")
    storage.inject(Plan(("429", "500", "503", "reset", "slow"), rate=0.3, seed=5, slow_seconds=0.1, match="^GET storage"))
    assert _elsewhere(storage.metadata_environment, "google_works", bucket, "") == _GOOGLE_WORKED
    requests = storage.requests()
    assert "/token" not in {request["target"] for request in requests}
    assert any(request["host"] == "metadata" and request["status"] == 503 for request in requests)
    assert sum(storage.counts().values()) >= 2


# ---------------------------------------------------------------------------------------------------------------- On the wire


class _Client:
    """A minimal client that sends single requests.

    Attributes:
      token: token that it sends with each request.
      location: Location header of the last answer.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._context = ssl.create_default_context(cafile=str(storage.folder / "ca.pem"))
        self.token = ""
        self.location = ""

    def ask(self, method: str, target: str, body: bytes = b"", host: str = _API, **headers: str) -> tuple[int, bytes]:
        """Sends a request; returns status and body of the answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._storage.ports.proxy, timeout=30, context=self._context)
        connection.set_tunnel(host, 443)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, target, body, {"Authorization": f"Bearer {self.token}", **given})
            response = connection.getresponse()
            self.location = response.headers.get("Location", "")
            return response.status, response.read()

    def authorize(self) -> None:
        """Gets a token."""
        self.token = json.loads(self.ask("POST", "/token", host="oauth2.googleapis.com")[1])["access_token"]


@pytest.fixture
def client(storage: Storage, bucket: str) -> _Client:
    """A client with a token."""
    made = _Client(storage)
    made.authorize()
    return made


def _media(uri: str) -> str:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"


def _upload(bucket: str, name: str) -> str:
    return f"/upload/storage/v1/b/{bucket.removeprefix('gs://')}/o?uploadType=media&name={quote(name, safe='')}"


def test_a_request_without_a_valid_token_is_refused(storage: Storage, bucket: str, client: _Client) -> None:
    storage.put(f"{bucket}/object", b"content")
    assert client.ask("GET", _media(f"{bucket}/object")) == (200, b"content")
    storage.revoke()
    status, body = client.ask("GET", _media(f"{bucket}/object"))
    assert (status, json.loads(body)["error"]["code"]) == (401, 401)
    client.token = "made-up"
    assert client.ask("DELETE", _media(f"{bucket}/object"))[0] == 401
    assert client.ask("POST", _upload(bucket, "other"), b"content")[0] == 401
    assert storage.objects(bucket) == {"object": b"content"}
    assert "made-up" not in json.dumps(storage.requests())


def test_other_hosts_cannot_be_reached(client: _Client) -> None:
    with pytest.raises(OSError, match="403"):
        client.ask("GET", "/", host="example.com")


@pytest.mark.parametrize("kind", ["401", "403", "404", "429", "500", "503"])
def test_a_refusal_replaces_the_answer(storage: Storage, bucket: str, client: _Client, kind: str) -> None:
    storage.inject(Plan((kind,), match="object", count=1))
    status, body = client.ask("POST", _upload(bucket, "object"), b"content")
    assert (status, json.loads(body)["error"]["code"]) == (int(kind), int(kind))
    assert storage.names(bucket) == []
    assert storage.counts() == {kind: 1}
    # The plan had one fault, so the next request succeeds.
    assert client.ask("POST", _upload(bucket, "object"), b"content")[0] == 200
    assert storage.counts() == {kind: 1}


def test_a_reset_comes_before_or_after_the_storage_acts(storage: Storage, bucket: str, client: _Client) -> None:
    for kind, stored in (("reset", []), ("lost_answer", ["object"])):
        storage.inject(Plan((kind,), match="object"))
        with pytest.raises(ConnectionResetError):
            client.ask("POST", _upload(bucket, "object"), b"content")
        assert storage.names(bucket) == stored
    assert storage.counts() == {"reset": 1, "lost_answer": 1}


def test_a_truncated_answer_has_half_a_body(storage: Storage, bucket: str, client: _Client) -> None:
    storage.put(f"{bucket}/object", b"0123456789")
    storage.put(f"{bucket}/tiny", b"0")
    storage.inject(Plan(("truncated",)))
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.ask("GET", _media(f"{bucket}/object"))
    assert (caught.value.partial, caught.value.expected) == (b"01234", 5)
    # A body too short to halve is sent whole, and the fault is not counted.
    assert client.ask("GET", _media(f"{bucket}/tiny")) == (200, b"0")
    assert storage.counts() == {"truncated": 1}


def test_a_slow_answer_comes_late(storage: Storage, bucket: str, client: _Client) -> None:
    storage.inject(Plan(("slow",), match="object", slow_seconds=0.5))
    start = time.monotonic()
    assert client.ask("POST", _upload(bucket, "object"), b"content")[0] == 200
    assert 0.5 < time.monotonic() - start < 3
    storage.clear()
    storage.latency(0.3)
    assert client.ask("GET", _media(f"{bucket}/object")) == (200, b"content")
    assert 0.3 < storage.requests()[-1]["seconds"] < 3


def test_a_swallowed_upload_stores_no_object(storage: Storage, bucket: str, client: _Client) -> None:
    storage.inject(Plan(("swallowed",), match="object"))
    status, body = client.ask("POST", _upload(bucket, "object"), b"content")
    assert (status, json.loads(body)["name"], json.loads(body)["size"]) == (200, "object", "7")
    assert storage.names(bucket) == []
    assert client.ask("GET", _media(f"{bucket}/object"))[0] == 404
    assert storage.counts() == {"swallowed": 1}


def test_no_token_while_its_server_fails(storage: Storage, client: _Client) -> None:
    storage.inject(Plan(("token_503", "503"), count=1))
    statuses = [client.ask("POST", "/oauth2/v4/token", host="www.googleapis.com")[0] for _ in range(8)]
    assert (statuses.count(503), statuses.count(200)) == (1, 7)
    assert storage.counts() == {"token_503": 1}


def test_a_resumable_upload_reports_how_much_was_received(storage: Storage, bucket: str, client: _Client) -> None:
    target = _upload(bucket, _NAME).replace("uploadType=media", "uploadType=resumable")
    storage.inject(Plan(("lost_answer",), match="^PUT", count=1))
    assert client.ask("POST", f"{target}&ifGenerationMatch=0")[0] == 200
    session = client.location.removeprefix(f"https://{_API}")
    with pytest.raises(ConnectionResetError):
        client.ask("PUT", session, b"01234", Content_Range="bytes 0-4/10")
    assert client.ask("PUT", session, Content_Range="bytes */10")[0] == 308
    # The emulator alone would have made an object from this half.
    assert storage.names(bucket) == []
    assert client.ask("PUT", session, b"56789", Content_Range="bytes 5-9/10")[0] == 200
    # A client that lost the answer can ask again.
    assert client.ask("PUT", session, Content_Range="bytes */10")[0] == 200
    assert storage.objects(bucket) == {_NAME: b"0123456789"}
    assert client.ask("POST", f"{target}&ifGenerationMatch=0")[0] == 412


def test_of_many_writers_that_require_no_object_only_one_creates_it(storage: Storage, bucket: str, client: _Client) -> None:
    target = f"{_upload(bucket, 'object')}&ifGenerationMatch=0"
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda number: client.ask("POST", target, str(number).encode())[0], range(12)))
    assert sorted(statuses) == [200] + [412] * 11
    assert storage.get(f"{bucket}/object") == str(statuses.index(200)).encode()


# ------------------------------------------------------------------------------------------------------------- Foundations


def test_folders_are_uploaded_and_downloaded(
    storage: Storage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PAGE", 3)
    names = {_NAME: b"odd", "deep/er": b"", **{f"many/{number}": b"1" for number in range(10)}}
    for name, data in names.items():
        storage.put(f"{bucket}/folder/{name}", data)
    # More objects than a page of a listing holds.
    assert storage.objects(f"{bucket}/folder") == names
    assert storage.names(f"{bucket}/fold") == []
    storage.download_folder(f"{bucket}/folder", tmp_path)
    storage.upload_folder(tmp_path, f"{bucket}/copy")
    assert storage.names(f"{bucket}/copy") == storage.names(f"{bucket}/folder")
    storage.delete(f"{bucket}/copy/{_NAME}")
    with pytest.raises(FileNotFoundError):
        storage.get(f"{bucket}/copy/{_NAME}")


def test_the_same_seed_strikes_the_same_requests_and_all_kinds_alike() -> None:
    kinds = ("429", "503", "reset", "slow")

    def struck(seed: int) -> list[str]:
        faults = Faults()
        faults.replace([Plan(kinds, rate=0.05, seed=seed)])
        drawn = [faults.draw("GET host /path", KINDS) for _ in range(40_000)]
        return [fault.kind if fault else "" for fault in drawn]

    assert struck(1) == struck(1) != struck(2)
    counts = Counter(struck(1))
    assert all(400 < counts[kind] < 600 for kind in kinds), counts


def test_a_plan_begins_and_ends() -> None:
    faults = Faults()
    faults.replace([Plan(("429",), match="object$", first=2, count=3)])
    requests = ("object", "other") * 10
    struck = [number for number, request in enumerate(requests) if faults.draw(request, KINDS)]
    assert struck == [4, 6, 8]
    with pytest.raises(ValueError, match="418"):
        Plan(("418",))


def hold() -> None:
    """Starts the server, prints its ports, and waits to be killed."""
    with server.storage() as started:
        print(json.dumps(started.ports.__dict__), flush=True)
        signal.pause()


def test_the_server_ends_with_the_process_that_started_it() -> None:
    command = (sys.executable, "-m", __name__, "hold")
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ports = json.loads(process.stdout.readline())
    assert all(map(_listens, ports.values()))
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(_listens, ports.values())):
        assert time.monotonic() < deadline, "it still listens"
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


if __name__ == "__main__":
    result = globals()[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
