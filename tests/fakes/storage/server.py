"""Cloud Storage on this machine for the duration of a `with` block, with direct access for tests."""

import contextlib
import dataclasses
import http.client
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.storage.faults import Plan
from tests.fakes.storage.tokens import EMAIL, PROJECT
from tests.support.commands import REPOSITORY

_START_SECONDS = 20.0
_END_SECONDS = 10.0
_PAGE = 1000

# Short client timeouts and delays, so that tests are fast.
_HASTE = {
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "20000",
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "1000000",
    "GCS_REQUEST_CONNECTION_TIMEOUT_SECS": "5",
    "GCS_REQUEST_IDLE_TIMEOUT_SECS": "2",
    "GCS_METADATA_REQUEST_TIMEOUT_SECS": "10",
    "GCE_METADATA_TIMEOUT": "2",
}


@dataclasses.dataclass(frozen=True)
class Ports:
    """The ports on which the processes listen on the loopback interface."""

    proxy: int
    metadata: int
    control: int
    emulator: int


@dataclasses.dataclass(frozen=True)
class Storage:
    """Direct access to the fake Cloud Storage.

    Objects are named `gs://BUCKET/NAME`. Access here bypasses the proxy: no tokens, no faults, no entries in the log.

    Attributes:
      folder: folder for its files.
      ports: ports on which it listens.
    """

    folder: Path
    ports: Ports

    @property
    def environment(self) -> dict[str, str]:
        """Returns the additional variables with which a process uses this storage as a service account."""
        return self._common | {"GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "account.json"), "NO_GCE_CHECK": "true"}

    @property
    def metadata_environment(self) -> dict[str, str]:
        """Returns the same for a process that uses a metadata server. GOOGLE_APPLICATION_CREDENTIALS must not be set as well."""
        address = f"127.0.0.1:{self.ports.metadata}"
        # google-auth uses the first to detect the server, and the second for its requests.
        return self._common | {"GCE_METADATA_IP": address, "GCE_METADATA_HOST": address}

    @property
    def _common(self) -> dict[str, str]:
        authority = str(self.folder / "ca.pem")
        return _HASTE | {
            # Not in lower case, which gRPC between TensorFlow's workers would obey too.
            "HTTPS_PROXY": f"http://127.0.0.1:{self.ports.proxy}",
            "NO_PROXY": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            # Hides the user's own credentials.
            "CLOUDSDK_CONFIG": str(self.folder / "gcloud"),
        }

    def bucket(self, name: str) -> str:
        """Creates a bucket, and returns its `gs://NAME`."""
        self._storage("POST", f"/storage/v1/b?project={PROJECT}", json.dumps({"name": name}).encode())
        return f"gs://{name}"

    def put(self, uri: str, data: bytes) -> None:
        """Creates or replaces an object."""
        bucket, name = _split(uri)
        self._storage("POST", f"/upload/storage/v1/b/{bucket}/o?{urlencode({'uploadType': 'media', 'name': name})}", data)

    def get(self, uri: str) -> bytes:
        """Returns an object's bytes.

        Raises:
          FileNotFoundError: there is no such object.
        """
        return self._storage("GET", f"{_path(uri)}?alt=media")

    def delete(self, uri: str) -> None:
        """Deletes an object.

        Raises:
          FileNotFoundError: there is no such object.
        """
        self._storage("DELETE", _path(uri))

    def generation(self, uri: str) -> int:
        """Returns an object's generation.

        Raises:
          FileNotFoundError: there is no such object.
        """
        return int(json.loads(self._storage("GET", _path(uri)))["generation"])

    def names(self, uri: str) -> list[str]:
        """Returns the sorted names of a folder's objects at all depths, relative to the folder, without its own marker object."""
        bucket, name = _split(uri)
        prefix = f"{name.rstrip('/')}/" if name else ""
        found: list[str] = []
        page: dict[str, str] | None = {}
        while page is not None:
            query = urlencode({"prefix": prefix, "maxResults": _PAGE, **page})
            listing = json.loads(self._storage("GET", f"/storage/v1/b/{bucket}/o?{query}"))
            found += [item["name"].removeprefix(prefix) for item in listing.get("items", ())]
            page = {"pageToken": listing["nextPageToken"]} if listing.get("nextPageToken") else None
        return sorted(name for name in found if name)

    def objects(self, uri: str) -> dict[str, bytes]:
        """Returns the contents of the objects in a folder by relative name."""
        return {name: self.get(f"{uri.rstrip('/')}/{name}") for name in self.names(uri)}

    def upload_folder(self, path: Path, uri: str) -> None:
        """Uploads all files of a folder, at all depths."""
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self.put(f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}", file.read_bytes())

    def download_folder(self, uri: str, path: Path) -> None:
        """Downloads all objects of a folder, at all depths."""
        for name in self.names(uri):
            target = path / name
            # An object with such a name only marks a folder.
            if name.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.get(f"{uri.rstrip('/')}/{name}"))

    def inject(self, *plans: Plan) -> None:
        """Strikes requests by these plans, and by no earlier ones."""
        self._order("/plan", *map(dataclasses.asdict, plans))

    def latency(self, seconds: float) -> None:
        """Delays every answer by `seconds`."""
        self._order("/latency", seconds)

    def revoke(self) -> None:
        """Revokes all access tokens."""
        self._order("/revoke")

    def refuse_metadata(self, *, requests: int = 0, seconds: float = 0.0, match: str = "") -> None:
        """Lets the metadata server refuse the next `requests` requests, and all within `seconds`, whose path matches `match`."""
        self._order("/metadata", requests, seconds, match)

    def requests(self) -> list[dict[str, Any]]:
        """Returns the clients' requests in order of arrival, each with the fields of `proxy.Entry`."""
        return self._order("/log")

    def counts(self) -> dict[str, int]:
        """Returns the number of delivered faults by kind."""
        return self._order("/counts")

    def clear(self) -> None:
        """Ends all faults and the latency, and clears the log and the counts. Objects and tokens stay."""
        self._order("/clear")

    def _order(self, path: str, *arguments: object) -> Any:
        return json.loads(_ask(self.ports.control, "POST", path, json.dumps(arguments).encode()))

    def _storage(self, method: str, target: str, body: bytes = b"") -> bytes:
        return _ask(self.ports.emulator, method, target, body)


@contextlib.contextmanager
def storage() -> Iterator[Storage]:
    """Runs Cloud Storage for the duration of a `with` block.

    Raises:
      RuntimeError: it does not start in time.
    """
    with tempfile.TemporaryDirectory(prefix="storage-") as name:
        folder = Path(name)
        (folder / "account.json").write_text(json.dumps(_account()))
        with (folder / "proxy.log").open("wb") as log:
            process = subprocess.Popen(
                (sys.executable, "-m", "tests.fakes.storage.proxy", str(folder)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                # A keyboard interrupt should reach only the tests, which then end this process.
                start_new_session=True,
            )
        try:
            line = _first_line(process)
            if not line:
                logs = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
                raise RuntimeError(f"the storage server did not start within {_START_SECONDS:g} s: {logs[-4000:]}")
            yield Storage(folder, Ports(**json.loads(line)))
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Returns a process's first line of output; empty if it does not come in time."""
    assert process.stdout is not None
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=lambda stdout=process.stdout: lines.put(stdout.readline()), daemon=True).start()
    try:
        return lines.get(timeout=_START_SECONDS)
    except queue.Empty:
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the proxy, which ends the emulator. If the proxy must be killed, the kernel ends the emulator."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _account() -> dict[str, str]:
    """Returns the credentials of a new service account."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


def _split(uri: str) -> tuple[str, str]:
    """Returns an object's bucket and name."""
    scheme, _, rest = uri.partition("://")
    assert scheme == "gs", uri
    bucket, _, name = rest.partition("/")
    return bucket, name


def _path(uri: str) -> str:
    bucket, name = _split(uri)
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


def _ask(port: int, method: str, target: str, body: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status == 404:
        raise FileNotFoundError(target)
    if response.status != 200:
        raise ValueError(f"{method} {target}: {response.status} {content[:500]!r}")
    return content
