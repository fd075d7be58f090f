"""The part of a cluster's API that launch uses, over HTTP. It validates new objects; the test acts as the controllers."""

import contextlib
import dataclasses
import datetime
import http.server
import itertools
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from tests.support.web import serving

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.-]+)/(?P<version>[a-z0-9]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?P<log>/log)?)?"
)
_KINDS = {
    "jobs": ("batch", "v1", "Job"),
    "jobsets": ("jobset.x-k8s.io", "v1alpha2", "JobSet"),
    "services": (None, None, "Service"),
    "pods": (None, None, "Pod"),
}


class Refused(Exception):
    """An answer whose status is not 2xx."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclasses.dataclass
class Log:
    """The output of a pod."""

    lines: list[bytes] = dataclasses.field(default_factory=list)
    is_ready: bool = False  # Whether its container has started.
    has_ended: bool = False


class Cluster:
    """The state of a cluster.

    Attributes:
      namespaces: names of its namespaces.
      has_jobsets: whether it supports JobSets.
      refusals: for "METHOD plural", an error to answer with instead.
      cuts: number of log connections that will still break, each after two lines.
      requests: requests so far, as "METHOD plural".
    """

    def __init__(self) -> None:
        self.namespaces = {"default", "films"}
        self.has_jobsets = True
        self.refusals: dict[str, Refused] = {}
        self.cuts = 0
        self.requests: list[str] = []
        self.lock = threading.Condition()
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._logs: dict[str, Log] = {}
        self._numbers = itertools.count(1)
        self._moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        outer = self

        class Handler(_Handler):
            cluster = outer

        self._server = contextlib.ExitStack()
        self.url = f"http://127.0.0.1:{self._server.enter_context(serving(Handler)).server_port}"

    def close(self) -> None:
        """Stops answering."""
        self._server.close()

    # What a test does in the role of the user or a controller.

    def objects(self, plural: str, namespace: str = "default") -> list[dict[str, Any]]:
        """Returns all objects of a kind."""
        with self.lock:
            return [each for (kind, found_in, _), each in self._objects.items() if (kind, found_in) == (plural, namespace)]

    def wait_for(self, plural: str, namespace: str = "default") -> dict[str, Any]:
        """Waits for an object of a kind, and returns the first one."""
        deadline = time.monotonic() + 20
        while not (found := self.objects(plural, namespace)):
            assert time.monotonic() < deadline, f"no {plural} came"
            time.sleep(0.02)
        return found[0]

    def wait_until_asked(self, request: str, times: int) -> None:
        """Waits until a request has been made `times` more times."""
        wanted = self.requests.count(request) + times
        deadline = time.monotonic() + 20
        while self.requests.count(request) < wanted:
            assert time.monotonic() < deadline, f"nobody asked {request}"
            time.sleep(0.02)

    def create(self, plural: str, namespace: str, given: dict[str, Any]) -> dict[str, Any]:
        """Creates an object, or raises Refused."""
        with self.lock:
            metadata = given.get("metadata", {})
            name = metadata.get("name", "")
            self._check(plural, namespace, given)
            if (plural, namespace, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists')
            for owner in metadata.get("ownerReferences", []):
                if not any(each["metadata"]["uid"] == owner["uid"] for each in self._objects.values()):
                    raise Refused(422, "Invalid", f"owner {owner['uid']} is not known")
            made = given | {"metadata": {**metadata, "namespace": namespace, **self._birth()}}
            self._objects[plural, namespace, name] = made
            return made

    def delete(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """Deletes an object and all objects that it owns."""
        with self.lock:
            gone = self._objects.pop((plural, namespace, name), None)
            if gone is None:
                raise Refused(404, "NotFound", f'{plural} "{name}" not found')
            uid = gone["metadata"]["uid"]
            for key, each in list(self._objects.items()):
                if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", [])):
                    del self._objects[key]
                    self._logs.pop(key[2], None)
            self.lock.notify_all()
            return gone

    def get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """Returns an object, or raises Refused."""
        with self.lock:
            if (plural, namespace, name) not in self._objects:
                raise Refused(404, "NotFound", f'{plural} "{name}" not found')
            return self._objects[plural, namespace, name]

    def add_pod(self, workload: dict[str, Any], index: int, *, running: bool = True) -> str:
        """Starts a pod of a worker; returns its name."""
        spec = workload["spec"]
        child = spec if workload["kind"] == "Job" else spec["replicatedJobs"][0]["template"]["spec"]
        with self.lock:
            metadata = workload["metadata"]
            name = f"{metadata['name']}-{index}-{next(self._numbers):05d}"
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": metadata["namespace"],
                    "labels": child["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": str(index)},
                    "ownerReferences": [{"uid": metadata["uid"]}],
                    **self._birth(),
                },
                "status": {
                    "phase": "Pending",
                    "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}],
                },
            }
            self._objects["pods", metadata["namespace"], name] = pod
            self._logs[name] = Log()
            if running:
                self.start_pod(name)
            return name

    def start_pod(self, name: str) -> None:
        """Starts the container of a pod."""
        with self.lock:
            pod = self._pod(name)
            pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {"running": {}}}]}
            self._logs[name].is_ready = True
            self.lock.notify_all()

    def write(self, pod: str, *lines: str) -> None:
        """Adds lines to a pod's log; every two lines have the same time."""
        with self.lock:
            for number, line in enumerate(lines):
                if number % 2 == 0:
                    self._moment += datetime.timedelta(microseconds=1_250_000)
                # As the kubelet writes it: without trailing zeros.
                moment = self._moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
                self._logs[pod].lines.append(f"{moment}Z {line}\n".encode())
            self.lock.notify_all()

    def end_pod(self, name: str, code: int) -> None:
        """Lets a pod's worker exit."""
        with self.lock:
            state = {"terminated": {"exitCode": code}}
            phase = "Failed" if code else "Succeeded"
            self._pod(name)["status"] = {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]}
            self._logs[name].has_ended = True
            self.lock.notify_all()

    def end(self, workload: dict[str, Any], kind: str, reason: str = "", message: str = "") -> None:
        """Ends a job by setting a condition."""
        with self.lock:
            workload["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}

    def _pod(self, name: str) -> dict[str, Any]:
        return next(each for (plural, _, own), each in self._objects.items() if (plural, own) == ("pods", name))

    def _birth(self) -> dict[str, str]:
        number = next(self._numbers)
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"uid": f"uid-{number:05d}", "creationTimestamp": moment}

    def _check(self, plural: str, namespace: str, given: dict[str, Any]) -> None:
        if namespace not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        if given.get("metadata", {}).get("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest", "the namespace of the object does not match that of the request")
        if not re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", given.get("metadata", {}).get("name", "")):
            raise Refused(422, "Invalid", "metadata.name is not a host name")
        if plural in ("jobs", "services"):
            try:
                kubernetes_validate.validate(given, kubernetes_validate.latest_version(), strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refused(422, "Invalid", str(error).partition("\n")[0]) from None
        if plural == "jobs" and given["spec"]["completionMode"] == "Indexed" and "completions" not in given["spec"]:
            raise Refused(422, "Invalid", "spec.completions: Required value: when completion mode is Indexed")

    # The answers of the API.

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the answer to a request other than for a log."""
        url = urllib.parse.urlsplit(path)
        plural, namespace, name = self._resource(method, url.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query).items()}
        if method == "POST" and body is not None:
            return self.create(plural, namespace, body)
        if method == "DELETE":
            return self.delete(plural, namespace, name)
        if name:
            return self.get(plural, namespace, name)
        wanted = dict(each.split("=") for each in query.get("labelSelector", "").split(",") if each)
        found = [each for each in self.objects(plural, namespace) if wanted.items() <= each["metadata"].get("labels", {}).items()]
        # The API omits the kind of the items.
        return {"kind": "List", "metadata": {}, "items": [{k: v for k, v in each.items() if k != "kind"} for each in found]}

    def stream(self, path: str) -> Iterator[bytes]:
        """Yields an empty line once the request is accepted, then the lines of a log as they are written."""
        url = urllib.parse.urlsplit(path)
        _, _, name = self._resource("GET", url.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query).items()}
        is_following = query.get("follow", "").lower() == "true"
        if query.get("container") != "trainer" or query.get("timestamps", "").lower() != "true":
            raise Refused(400, "BadRequest", "a container name must be specified")
        with self.lock:
            if name not in self._logs:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            log = self._logs[name]
            if not log.is_ready:
                raise Refused(400, "BadRequest", f'container "trainer" in pod "{name}" is waiting to start: ContainerCreating')
            cut_at = None
            if self.cuts:
                self.cuts, cut_at = self.cuts - 1, 3
        yield b""
        for number in itertools.count():
            with self.lock:
                while number >= len(log.lines) and is_following and not log.has_ended:
                    if name not in self._logs:
                        return
                    self.lock.wait(0.1)
                if number >= len(log.lines):
                    return
                line = log.lines[number]
            if number == cut_at:
                raise ConnectionAbortedError
            yield line

    def _resource(self, method: str, path: str) -> tuple[str, str, str]:
        found = _PATH.fullmatch(path)
        if not found or found["plural"] not in _KINDS:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        group, version, _ = _KINDS[found["plural"]]
        self.requests.append(f"{method} {found['plural']}")
        # A client without permission learns nothing about the objects.
        if f"{method} {found['plural']}" in self.refusals:
            raise self.refusals[f"{method} {found['plural']}"]
        if (found["group"], found["version"]) != (group, version) or (found["plural"] == "jobsets" and not self.has_jobsets):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return found["plural"], found["namespace"], found["name"] or ""


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        try:
            if urllib.parse.urlsplit(self.path).path.endswith("/log"):
                self._stream()
            else:
                self._send(
                    201 if self.command == "POST" else 200,
                    self.cluster.answer(self.command, self.path, json.loads(text) if text else None),
                )
        except Refused as refusal:
            status = {
                "kind": "Status",
                "status": "Failure",
                "reason": refusal.reason,
                "message": str(refusal),
                "code": refusal.status,
            }
            self._send(refusal.status, status)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        with self.cluster.lock:
            body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        lines = self.cluster.stream(self.path)
        next(lines)  # Raises Refused if the request is refused.
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        except ConnectionAbortedError:
            self.connection.shutdown(socket.SHUT_RDWR)
            raise
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""
