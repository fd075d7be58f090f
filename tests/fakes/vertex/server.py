"""The parts of Vertex AI and Cloud Logging that launch uses. They refuse invalid requests; the test acts as the machines."""

import concurrent.futures
import contextlib
import datetime
import http.server
import itertools
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.aiplatform_v1.types import (
    CancelCustomJobRequest,
    CreateCustomJobRequest,
    CustomJob,
    GetCustomJobRequest,
    JobState,
    ListCustomJobsRequest,
    ListCustomJobsResponse,
)
from google.protobuf import empty_pb2

from tests.support.web import serving

PROJECT = "films"
REGION = "europe-west4"
ACCOUNT = f"desk@{PROJECT}.iam.gserviceaccount.com"

_SERVICE = "google.cloud.aiplatform.v1.JobService"

# The table "Valid numbers of GPUs for each machine type" of Vertex AI's documentation, row by row.
_N1 = {
    4: {"P4": "1 2 4", "T4": "1 2 4", "V100": "1 2 4 8"},
    8: {"P4": "1 2 4", "T4": "1 2 4", "V100": "1 2 4 8"},
    16: {"P4": "1 2 4", "T4": "1 2 4", "V100": "2 4 8"},
    32: {"P4": "2 4", "T4": "2 4", "V100": "4 8"},
    64: {"P4": "4", "T4": "4", "V100": "8"},
    96: {"P4": "4", "T4": "4", "V100": "8"},
}
_GPUS = {
    "a4-highgpu-8g": "NVIDIA_B200 8",
    "a3-ultragpu-8g": "NVIDIA_H200_141GB 8",
    "a3-megagpu-8g": "NVIDIA_H100_MEGA_80GB 8",
    **{f"a3-highgpu-{n}g": f"NVIDIA_H100_80GB {n}" for n in (1, 2, 4, 8)},
    **{f"a2-ultragpu-{n}g": f"NVIDIA_A100_80GB {n}" for n in (1, 2, 4, 8)},
    **{f"a2-highgpu-{n}g": f"NVIDIA_TESLA_A100 {n}" for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": "NVIDIA_TESLA_A100 16",
    "g2-standard-4": "NVIDIA_L4 1",
    "g2-standard-8": "NVIDIA_L4 1",
    "g2-standard-12": "NVIDIA_L4 1",
    "g2-standard-16": "NVIDIA_L4 1",
    "g2-standard-24": "NVIDIA_L4 2",
    "g2-standard-32": "NVIDIA_L4 1",
    "g2-standard-48": "NVIDIA_L4 4",
    "g2-standard-96": "NVIDIA_L4 8",
    "cloud-tpu": "TPU_V3 8",
}
_TPUS = {"ct5lp-hightpu-1t": ("1x1",), "ct5lp-hightpu-4t": ("2x2",), "ct5lp-hightpu-8t": ("2x4",)}
_CORES = {
    "e2-standard": "4 8 16 32",
    "e2-highmem": "2 4 8 16",
    "e2-highcpu": "16 32",
    "n2-standard": "4 8 16 32 48 64 80",
    "n2-highmem": "2 4 8 16 32 48 64 80",
    "n2-highcpu": "16 32 48 64 80",
    "n1-standard": "4 8 16 32 64 96",
    "n1-highmem": "2 4 8 16 32 64 96",
    "n1-highcpu": "16 32 64 96",
}


class Refused(Exception):
    """An error answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Vertex:
    """Vertex AI in one region, with the log of one project.

    Attributes:
      address: address of the gRPC server for Vertex AI.
      url: URL of the HTTP server for Cloud Logging and tokens.
      refusals: for a method, an error to answer with instead.
      log_status: HTTP status of Cloud Logging's answers; 200 to return the log.
      requests: methods called so far.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, Refused] = {}
        self.log_status = 200
        self.token_status = 200
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._jobs: dict[str, CustomJob] = {}
        self._entries: list[dict[str, Any]] = []
        self._numbers = itertools.count(4_000_000_000_000_000_001)
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name, method), request_deserializer=request.deserialize, response_serializer=serialize
            )
            for name, method, request, serialize in (
                ("CreateCustomJob", self._create, CreateCustomJobRequest, CustomJob.serialize),
                ("GetCustomJob", self._get, GetCustomJobRequest, CustomJob.serialize),
                ("ListCustomJobs", self._list, ListCustomJobsRequest, ListCustomJobsResponse.serialize),
                ("CancelCustomJob", self._cancel, CancelCustomJobRequest, empty_pb2.Empty.SerializeToString),
            )
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        outer = self

        class Handler(_Handler):
            vertex = outer

        self._http = contextlib.ExitStack()
        self.url = f"http://127.0.0.1:{self._http.enter_context(serving(Handler)).server_port}"

    def close(self) -> None:
        """Stops answering."""
        self._server.stop(0).wait()
        self._http.close()

    # What a test does in the role of the user or the machines.

    def credentials(self, path: Path) -> None:
        """Writes a service account's credentials, whose tokens this server issues."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        described = {"type": "service_account", "project_id": PROJECT, "client_email": ACCOUNT, "private_key": pem.decode()}
        path.write_text(json.dumps({**described, "private_key_id": "1", "token_uri": f"{self.url}/token"}))

    def jobs(self) -> list[CustomJob]:
        """Returns all jobs."""
        with self.lock:
            return list(self._jobs.values())

    def wait_for_job(self) -> CustomJob:
        """Waits for a job, and returns the first one."""
        self._wait(lambda: bool(self._jobs), "no job came")
        return self.jobs()[0]

    def wait_until_asked(self, request: str, times: int) -> None:
        """Waits until a request has been made `times` more times."""
        wanted = self.requests.count(request) + times
        self._wait(lambda: self.requests.count(request) >= wanted, f"nobody asked {request}")

    def advance(self, job: CustomJob, state: str, *, ran: float = 0.0) -> None:
        """Sets a job's state, not its last one. Its first RUNNING began `ran` seconds ago."""
        with self.lock:
            job.state = JobState[f"JOB_STATE_{state}"]
            if state == "RUNNING" and job.start_time is None:
                job.start_time = _now() - datetime.timedelta(seconds=ran)

    def end(self, job: CustomJob, state: str, message: str = "", *, code: int = 3) -> None:
        """Ends a job in a state."""
        with self.lock:
            job.end_time = _now()
            if message:
                job.error = {"code": code, "message": message}
            self.advance(job, state)

    def write(self, job: CustomJob, task: str, *texts: str, late: float = 0.0, structured: bool = False) -> None:
        """Adds a worker's lines to the log, `late` seconds old; every two lines have the same time."""
        with self.lock:
            for number, text in enumerate(texts):
                if number % 2 == 0:
                    moment = (_now() - datetime.timedelta(seconds=late)).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
                entry = {
                    "insertId": f"{next(self._numbers):x}",
                    "logName": f"projects/{PROJECT}/logs/{task}",
                    "timestamp": moment,
                    "resource": {"type": "ml_job", "labels": {"job_id": job.name.rpartition("/")[2], "task_name": task}},
                }
                payload = {"jsonPayload": {"message": text}} if structured else {"textPayload": text}
                self._entries.append(entry | payload)

    @staticmethod
    def _wait(until: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.02)

    # The answers of Vertex AI.

    def _handler(self, name: str, method: Callable[[Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                with self.lock:
                    self.requests.append(name)
                    if name in self.refusals:
                        raise self.refusals[name]
                    return method(request)
            except Refused as refusal:
                context.abort(refusal.code, str(refusal))

        return handle

    def _create(self, request: CreateCustomJobRequest) -> CustomJob:
        _check_parent(request.parent)
        for problem in problems(request.custom_job):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, problem)
        job = CustomJob(request.custom_job)
        # Vertex AI names the project by its number.
        job.name = f"projects/123456/locations/{REGION}/customJobs/{next(self._numbers)}"
        job.create_time, job.state = _now(), JobState.JOB_STATE_QUEUED
        self._jobs[job.name.rpartition("/")[2]] = job
        return job

    def _get(self, request: GetCustomJobRequest) -> CustomJob:
        parent, _, number = request.name.rpartition("/customJobs/")
        _check_parent(parent)
        if number not in self._jobs:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"The CustomJob {number} does not exist.")
        return self._jobs[number]

    def _list(self, request: ListCustomJobsRequest) -> ListCustomJobsResponse:
        _check_parent(request.parent)
        found = [job for job in self._jobs.values() if _matches(job, request.filter)]
        first = int(request.page_token or 0)
        after = first + min(request.page_size, 2)
        return ListCustomJobsResponse(custom_jobs=found[first:after], next_page_token=str(after) if after < len(found) else "")

    def _cancel(self, request: CancelCustomJobRequest) -> empty_pb2.Empty:
        job = self._get(GetCustomJobRequest(name=request.name))
        if job.end_time is not None:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The CustomJob has ended.")
        self.end(job, "CANCELLED", "Job is cancelled by user.", code=1)
        return empty_pb2.Empty()

    # The answers of Cloud Logging.

    def entries(self, question: dict[str, Any]) -> dict[str, Any]:
        """Returns a page of the log."""
        assert question["resourceNames"] == [f"projects/{PROJECT}"]
        assert question["orderBy"] == "timestamp asc"
        found = re.fullmatch(
            r'resource\.type="ml_job" AND resource\.labels\.job_id="(\d+)" AND timestamp>="([-0-9T:.]+Z)"', question["filter"]
        )
        assert found, question["filter"]
        with self.lock:
            self.requests.append("entries")
            entries = [entry for entry in self._entries if entry["resource"]["labels"]["job_id"] == found[1]]
        # As text, because datetime has no nanoseconds.
        entries = sorted((entry for entry in entries if entry["timestamp"] >= found[2]), key=lambda entry: entry["timestamp"])
        first = int(question.get("pageToken", 0))
        after = first + min(question["pageSize"], 5)
        answer: dict[str, Any] = {"entries": entries[first:after]} if entries[first:after] else {}
        return answer | ({"nextPageToken": str(after)} if after < len(entries) else {})


class _Handler(http.server.BaseHTTPRequestHandler):
    vertex: Vertex

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/token":
            assertion = urllib.parse.parse_qs(text.decode())["assertion"]
            assert assertion[0].count(".") == 2
            good = {"access_token": "ya29.good", "expires_in": 3600, "token_type": "Bearer"}
            self._send(self.vertex.token_status, good if self.vertex.token_status == 200 else {"error": "invalid_grant"})
        elif self.vertex.log_status != 200:
            self._send(self.vertex.log_status, {"error": {"code": self.vertex.log_status, "message": "not now"}})
        elif self.headers.get("Authorization") != "Bearer ya29.good":
            self._send(401, {"error": {"code": 401, "message": "who are you?"}})
        else:
            self._send(200, self.vertex.entries(json.loads(text)))

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


def problems(job: CustomJob) -> list[str]:
    """Returns why Vertex AI would refuse to create a job, one text for each reason."""
    found = []
    if not 0 < len(job.display_name) <= 128:
        found.append("display_name must have from 1 to 128 characters")
    if job.name or job.state or job.create_time is not None:
        found.append("an output-only field is set")
    for key, value in job.labels.items():
        if not re.fullmatch("[a-z][-_a-z0-9]{0,62}", key) or not re.fullmatch("[-_a-z0-9]{0,63}", value):
            found.append(f"label {key}={value} is invalid")
    if len(job.labels) > 64:
        found.append("more than 64 labels")
    spec = job.job_spec
    pools = list(spec.worker_pool_specs)
    if not 1 <= len(pools) <= 4 or pools[0].replica_count != 1:
        found.append("the first worker pool must have just one replica")
    for pool in pools:
        if pool.replica_count < 1 or not pool.container_spec.image_uri:
            found.append("a worker pool has no replica or no image")
        if len(pool.container_spec.env) > 100:
            found.append("more than 100 environment variables")
        for variable in pool.container_spec.env:
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable.name):
                found.append(f"{variable.name} is not a C identifier")
        found += _machine_problems(pool.machine_spec, alone=len(pools) == 1)
    if not re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]+(/.*[^/])?", spec.base_output_directory.output_uri_prefix):
        found.append("base_output_directory is not a folder of Cloud Storage")
    if spec.service_account and not re.fullmatch(r"[^@\s]+@[^@\s]+\.gserviceaccount\.com", spec.service_account):
        found.append("service_account is not an e-mail address")
    if spec.tensorboard and not spec.service_account:
        found.append("service_account is required with tensorboard")
    if spec.tensorboard and f"/locations/{REGION}/" not in spec.tensorboard:
        found.append("tensorboard must be in the job's region")
    if spec.network and not re.fullmatch(r"projects/\d+/global/networks/[-a-z0-9]+", spec.network):
        found.append("network must name the project by its number")
    if not spec.scheduling.timeout:
        found.append("timeout must be positive")
    return found


def _machine_problems(machine: Any, *, alone: bool) -> list[str]:
    type_, accelerator, count = machine.machine_type, machine.accelerator_type.name, machine.accelerator_count
    if type_ in _TPUS:
        is_right = machine.tpu_topology in _TPUS[type_] and not machine.accelerator_type and alone
        return [] if is_right else [f"{type_} does not have this topology, or is not alone"]
    if type_ in _GPUS:
        is_right = _GPUS[type_] == f"{accelerator} {count}" and not machine.tpu_topology
        return [] if is_right else [f"{type_} does not have {count} {accelerator}"]
    series, _, cores = type_.rpartition("-")
    if cores not in _CORES.get(series, "").split():
        return [f"machine type {type_} is not supported"]
    if not machine.accelerator_type and not count and not machine.tpu_topology:
        return []
    counts = _N1[int(cores)].get(accelerator.removeprefix("NVIDIA_TESLA_"), "") if series.startswith("n1-") else ""
    return [] if str(count) in counts.split() else [f"{type_} does not have {count} {accelerator}"]


def _check_parent(parent: str) -> None:
    found = re.fullmatch("projects/([^/]+)/locations/([^/]+)", parent)
    if not found or found[2] != REGION:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{parent} is not served here")
    if found[1] not in (PROJECT, "123456"):
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"Permission 'aiplatform.customJobs.list' denied on resource '{parent}'")


def _matches(job: CustomJob, text: str) -> bool:
    for condition in text.split(" AND "):
        if found := re.fullmatch(r"labels\.([-_a-z0-9]+)=([-_a-z0-9]+)", condition):
            if job.labels.get(found[1]) != found[2]:
                return False
        elif found := re.fullmatch('display_name="([^"]*)"', condition):
            if job.display_name != found[1]:
                return False
        else:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"invalid filter {condition}")
    return True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
