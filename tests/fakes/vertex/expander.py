"""Runs a CustomJob as Vertex AI's documentation describes, with processes of this machine as replicas.

Sources: https://cloud.google.com/vertex-ai/docs/training/distributed-training (the cluster), …/code-requirements (variables and a
container's end) and the API's reference (references to variables). It shares no code with launch.
"""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.commands import ENVIRONMENT, REPOSITORY

_ROLES = ("chief", "worker", "ps", "evaluator")  # TF_CONFIG's task type of each worker pool.
_WORKER_RESTARTS, _JOB_RESTARTS = 5, 3


@dataclasses.dataclass
class Replica:
    """One container.

    Attributes:
      task: name of the task, such as workerpool0-0.
      command: command that it runs.
      environment: environment variables.
      restarts: number of restarts since the last start of the whole job.
      process: process that currently runs, if any.
    """

    task: str
    command: list[str]
    environment: dict[str, str]
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None


@dataclasses.dataclass
class Expansion:
    """A CustomJob that runs on this machine.

    Attributes:
      job: CustomJob in the API's JSON format.
      folder: folder for the replicas' output.
      buckets: folders that stand for buckets, by bucket name.
      ends: task and exit code of each replica that ended, in order of time.
    """

    job: dict[str, Any]
    folder: Path
    buckets: Mapping[str, Path]
    ends: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._spec = self.job["jobSpec"]
        self._scheduling = self._spec.get("scheduling", {})
        self.replicas = [
            self._replica(pool, index, addresses)
            for addresses in [self._addresses()]
            for pool, described in enumerate(self._spec["workerPoolSpecs"])
            for index in range(int(described["replicaCount"]))
        ]

    def run(self, meanwhile: Callable[["Expansion"], None] = lambda _: None, *, timeout: float = 240.0) -> str:
        """Runs the job to its end; returns its state."""
        deadline = time.monotonic() + timeout
        job_restarts = 0
        try:
            self._restart()
            while any(replica.process for replica in self.replicas):
                assert time.monotonic() < deadline, self.output()
                meanwhile(self)
                failed = self._collect()
                if failed:
                    failed.restarts += 1
                    if self._scheduling.get("disableRetries"):
                        return "FAILED"
                    if failed.restarts > _WORKER_RESTARTS:
                        job_restarts += 1
                        if job_restarts > _JOB_RESTARTS:
                            return "FAILED"
                        for replica in self.replicas:
                            replica.restarts = 0
                        self._restart()
                    elif self._scheduling.get("restartJobOnWorkerRestart"):
                        self._restart()
                    else:
                        self._start(failed)
                time.sleep(0.05)
            return "SUCCEEDED"
        finally:
            self._stop(signal.SIGKILL)

    def output(self) -> str:
        """Returns the output of all replicas."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("workerpool*")))

    def _addresses(self) -> list[list[str]]:
        """Returns the addresses of all replicas, by pool."""
        return [[f"127.0.0.1:{_free_port()}" for _ in range(int(pool["replicaCount"]))] for pool in self._spec["workerPoolSpecs"]]

    def _replica(self, pool: int, index: int, addresses: list[list[str]]) -> Replica:
        container = self._spec["workerPoolSpecs"][pool]["containerSpec"]
        described = json.dumps(self._spec)
        roles = {_ROLES[number]: each for number, each in enumerate(addresses)}
        pools = {f"workerpool{number}": each for number, each in enumerate(addresses)}
        task = {"index": index, "trial": "", "cloud": "c0123456789-tp"}
        environment = {
            "CLOUD_ML_JOB_ID": "4000000000000000001",
            "CLOUD_ML_PROJECT_ID": "123456",
            "TF_CONFIG": json.dumps(
                {"cluster": roles, "task": {"type": _ROLES[pool], **task}, "job": described, "environment": "cloud"}
            ),
            "CLUSTER_SPEC": json.dumps(
                {"cluster": pools, "task": {"type": f"workerpool{pool}", **task}, "job": described, "environment": "cloud"}
            ),
        }
        if "baseOutputDirectory" in self._spec:
            base = self._spec["baseOutputDirectory"]["outputUriPrefix"].rstrip("/")
            environment |= {
                "AIP_MODEL_DIR": f"{base}/model/",
                "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
                "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
            }
        for variable in container.get("env", []):
            environment[variable["name"]] = expand(variable["value"], environment)
        words = [*container["command"], *(expand(word, environment) for word in container["args"])]
        for bucket, folder in self.buckets.items():
            words = [word.replace(f"gs://{bucket}", str(folder)) for word in words]
        assert words[0] == "python"
        return Replica(f"workerpool{pool}-{index}", [sys.executable, *words[1:]], environment)

    def _restart(self) -> None:
        self._stop(signal.SIGTERM)
        for replica in self.replicas:
            self._start(replica)

    def _start(self, replica: Replica) -> None:
        with (self.folder / replica.task).open("ab") as output:
            replica.process = subprocess.Popen(
                replica.command,
                cwd=REPOSITORY,
                env={**ENVIRONMENT, **replica.environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _collect(self) -> Replica | None:
        """Records the replicas that have ended; returns one that failed, if any."""
        failed = None
        for replica in self.replicas:
            if replica.process and (code := replica.process.poll()) is not None:
                self.ends.append((replica.task, code if code >= 0 else 128 - code))
                replica.process = None
                failed = replica if code else failed
        return failed

    def _stop(self, number: signal.Signals) -> None:
        """Ends all containers as Vertex AI does: with a signal, and then SIGKILL for the remaining processes."""
        running = [replica for replica in self.replicas if replica.process]
        for replica in running:
            assert replica.process
            replica.process.send_signal(number)
        for replica in running:
            assert replica.process
            try:
                replica.process.wait(30)
            except subprocess.TimeoutExpired:
                replica.process.kill()
                replica.process.wait()
            replica.process = None


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expands a value of args or env: $(NAME) becomes the variable's value if it exists, and $$ becomes $."""

    def piece(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", piece, text)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def kill(replica: Replica) -> None:
    """Kills a container's first process; the kernel then ends the others."""
    assert replica.process
    os.kill(replica.process.pid, signal.SIGKILL)
