"""Buckets in memory in place of Google's client: unit tests see every request with its options, and may let one fail."""

import dataclasses
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions

from trainer.storage import credentials, objects


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of the client.

    Attributes:
      verb: "read", "write", "upload", "copy", "remove", "stat", "open", "list" or "bucket".
      uri: the object or folder.
      options: the arguments of the client's method.
    """

    verb: str
    uri: str
    options: dict[str, Any]


class Buckets:
    """Stands in for google.cloud.storage.Client.

    Attributes:
      content: the objects by URI.
      requests: the requests in the order in which they came.
      before: is called with every request before it is answered; it may raise an error instead, or change `content`.
      rewrites: the number of requests that a copy takes.
    """

    def __init__(self, *names: str) -> None:
        self.content: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.before: Callable[[Request], object] = lambda _: None
        self.rewrites = 1
        self._names = names
        self._generations: dict[str, int] = {}
        self._written = 0
        self._mutex = threading.RLock()

    def put(self, uri: str, content: bytes) -> int:
        """Writes an object, and returns its new generation."""
        with self._mutex:
            self._written += 1
            self.content[uri], self._generations[uri] = content, self._written
            return self._written

    def asked(self, verb: str) -> list[Request]:
        """Returns the requests of a kind."""
        return [request for request in self.requests if request.verb == verb]

    def bucket(self, name: str) -> "_Bucket":
        return _Bucket(self, name)

    def list_blobs(self, bucket: str, **options: Any) -> "_Listing":
        uri = f"gs://{bucket}/{options['prefix']}"
        self.request("list", uri, options)
        self._check_bucket(bucket)
        return _Listing(self, uri, options["delimiter"])

    def request(self, verb: str, uri: str, options: dict[str, Any]) -> None:
        request = Request(verb, uri, options)
        self.requests.append(request)
        self.before(request)

    def check(self, uri: str, generation: int | None, *, must_exist: bool = True) -> None:
        """Raises the error of Cloud Storage for an object that is absent, or has another generation than demanded."""
        self._check_bucket(uri.split("/")[2])
        if must_exist and uri not in self.content:
            raise exceptions.NotFound(f"No such object: {uri}")
        if generation is not None and generation != self.generation(uri):
            raise exceptions.PreconditionFailed(f"conditionNotMet: {uri}")

    def generation(self, uri: str) -> int:
        return self._generations.get(uri, 0) if uri in self.content else 0

    def _check_bucket(self, name: str) -> None:
        if name not in self._names:
            raise exceptions.NotFound("The specified bucket does not exist.")


def in_memory(monkeypatch: pytest.MonkeyPatch, *names: str) -> Buckets:
    """Puts buckets in memory behind `trainer.storage.objects` for the duration of a test."""
    made = Buckets(*names)
    monkeypatch.setattr(objects, "client", lambda: made)
    monkeypatch.setattr(credentials, "identity", lambda: "somebody@project")
    return made


class _Bucket:
    def __init__(self, buckets: Buckets, name: str) -> None:
        self._buckets, self._name = buckets, name

    def blob(self, name: str) -> "_Blob":
        return _Blob(self._buckets, f"gs://{self._name}/{name}")

    def reload(self, **options: Any) -> None:
        self._buckets.request("bucket", f"gs://{self._name}", options)
        self._buckets._check_bucket(self._name)


class _Blob:
    def __init__(self, buckets: Buckets, uri: str) -> None:
        self._buckets, self._uri = buckets, uri
        self.name = uri.split("/", 3)[3]
        self.chunk_size: int | None = None
        self.size: int | None = None
        self.crc32c: str | None = None
        self.generation: int | None = None

    def reload(self, *, if_generation_match: int | None = None, **options: Any) -> None:
        self._buckets.request("stat", self._uri, {"if_generation_match": if_generation_match, **options})
        self._buckets.check(self._uri, if_generation_match)
        self.describe()

    def download_as_bytes(self, **options: Any) -> bytes:
        self._buckets.request("read", self._uri, options)
        self._buckets.check(self._uri, options.get("if_generation_match"))
        self.describe()
        return self._buckets.content[self._uri]

    def upload_from_string(self, content: bytes, *, if_generation_match: int | None = None, **options: Any) -> None:
        self._buckets.request("write", self._uri, {"if_generation_match": if_generation_match, **options})
        self._buckets.check(self._uri, if_generation_match, must_exist=False)
        self._buckets.put(self._uri, content)
        self.describe()

    def upload_from_filename(self, path: str, **options: Any) -> None:
        self._buckets.request("upload", self._uri, {"chunk_size": self.chunk_size, **options})
        self._buckets.check(self._uri, None, must_exist=False)
        self._buckets.put(self._uri, Path(path).read_bytes())
        self.describe()

    def rewrite(self, source: "_Blob", *, token: str | None, **options: Any) -> tuple[str | None, int, int]:
        self._buckets.request("copy", self._uri, {"source": source._uri, "token": token, **options})
        self._buckets.check(source._uri, None)
        assert len(self._buckets.asked("copy")) < 100, "it never ends"
        done = int(token or 0) + 1
        if done < self._buckets.rewrites:
            return str(done), 0, 0
        self._buckets.put(self._uri, self._buckets.content[source._uri])
        return None, 0, 0

    def delete(self, *, if_generation_match: int | None = None, **options: Any) -> None:
        self._buckets.request("remove", self._uri, {"if_generation_match": if_generation_match, **options})
        self._buckets.check(self._uri, if_generation_match)
        del self._buckets.content[self._uri]

    def open(self, mode: str, **options: Any) -> "_Reader":
        assert mode == "rb"
        self._buckets.request("open", self._uri, options)
        return _Reader(self._buckets, self._uri, options["if_generation_match"])

    def describe(self) -> None:
        content = self._buckets.content[self._uri]
        self.size, self.crc32c = len(content), objects.crc32c([content])
        self.generation = self._buckets.generation(self._uri)


class _Reader(io.BytesIO):
    def __init__(self, buckets: Buckets, uri: str, generation: int | None) -> None:
        super().__init__(buckets.content[uri])
        self._buckets, self._uri, self._generation = buckets, uri, generation

    def read(self, size: int | None = -1) -> bytes:
        self._buckets.request("read", self._uri, {"size": size})
        self._buckets.check(self._uri, self._generation)
        return super().read(size)


class _Listing:
    """The pages of a listing; like the client's, it knows the folders only after it has been read."""

    def __init__(self, buckets: Buckets, uri: str, delimiter: str | None) -> None:
        self._buckets, self._uri, self._delimiter = buckets, uri, delimiter
        self.prefixes: set[str] = set()

    def __iter__(self) -> Iterator[_Blob]:
        for uri in sorted(self._buckets.content):
            if not uri.startswith(self._uri):
                continue
            below, found, _ = uri.removeprefix(self._uri).partition(self._delimiter or "\0")
            if found:
                self.prefixes.add(f"{self._uri}{below}/".split("/", 3)[3])
                continue
            blob = _Blob(self._buckets, uri)
            blob.describe()
            yield blob
