"""Turns a job into processes of this machine: one guard for each worker, which a supervisor restarts as its exit code asks."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.console import tell
from launch.job import SECRET, Job
from launch.local.processes import Spec, Worker
from trainer.errors import UserError

# Each worker takes two file descriptors of the supervisor, and the usual limit for a process is 1024.
_MAX_WORKERS = 256

_PORTS = range(20_000, 30_000)
_DRIVER = Path("/proc/driver/nvidia/gpus")  # NVIDIA's driver has a folder here for each GPU.


def plan(job: Job) -> Spec:
    """Returns the processes of a job, with the GPUs and free ports that this machine has now.

    Args:
      job: the job.

    Raises:
      UserError: this machine cannot run so many workers.
    """
    if job.workers > _MAX_WORKERS:
        raise UserError(f"--workers must be at most {_MAX_WORKERS} with --target=local, got {job.workers}")
    gpus = visible_gpus({**os.environ, **job.env})
    if job.workers > 1 and len(gpus) > 1 and job.workers != len(gpus):
        tell(f"--workers={job.workers} on {len(gpus)} GPUs: training is fastest with one worker for each GPU")
    return specify(
        job,
        job_id=job.new_name(),
        ports=free_ports(job.workers) if job.workers > 1 else (),
        gpus=gpus,
    )


def specify(job: Job, *, job_id: str, ports: Sequence[int], gpus: Sequence[str]) -> Spec:
    """Returns the processes of a job.

    Args:
      job: the job.
      job_id: the name of this launch, the same for all workers and their restarts.
      ports: a port for each worker; empty for a single worker.
      gpus: the GPUs to distribute among several workers, as CUDA_VISIBLE_DEVICES names them.
    """
    addresses = [f"127.0.0.1:{port}" for port in ports]
    workers = []
    for index in range(job.workers):
        environment = {**job.env, "POSTER_JOB_ID": job_id}
        if job.workers > 1:
            environment["TF_CONFIG"] = json.dumps(_cluster(addresses, index))
            if len(gpus) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        workers.append(Worker(command=(sys.executable, "-m", "trainer.guard", *job.arguments), environment=environment))
    return Spec(
        job_id=job_id,
        workers=tuple(workers),
        restarts=job.restarts,
        grace_period=job.training.grace_period,
        time_limit=job.time_limit,
    )


def _cluster(addresses: Sequence[str], index: int) -> dict[str, Any]:
    """Returns the TF_CONFIG of one of several workers."""
    task = {"type": "worker", "index": index - 1} if index else {"type": "chief", "index": 0}
    return {"cluster": {"chief": [addresses[0]], "worker": list(addresses[1:])}, "task": task}


def describe(spec: Spec) -> dict[str, Any]:
    """Returns a spec as a dict to print, with the values of possible secrets masked."""
    description = dataclasses.asdict(spec)
    for worker in description["workers"]:
        worker["environment"] = {key: "***" if SECRET.search(key) else value for key, value in worker["environment"].items()}
    return description


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them.

    Args:
      environment: the environment of the process.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(map(str, range(_count_gpus())))
    # CUDA reads the list up to the first invalid name, such as -1.
    return tuple(itertools.takewhile(lambda name: name not in ("", "-1"), (name.strip() for name in chosen.split(","))))


def _count_gpus() -> int:
    """Returns the number of NVIDIA GPUs of this machine; 0 without their driver."""
    with contextlib.suppress(OSError):
        return len(list(_DRIVER.iterdir()))
    if shutil.which("nvidia-smi"):  # WSL has the driver, but not its folder.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
            return sum(line.startswith("GPU ") for line in listing.splitlines())
    return 0


def free_ports(count: int) -> tuple[int, ...]:
    """Returns free TCP ports outside the system's ephemeral range, which outgoing connections use.

    The search begins at a random port, so that two simultaneous launches do not choose the same ports.

    Args:
      count: the number of ports.

    Raises:
      UserError: fewer ports are free.
    """
    ephemeral = _ephemeral_ports()
    candidates = [port for port in _PORTS if port not in ephemeral] or list(_PORTS)
    start = random.SystemRandom().randrange(len(candidates))
    found = tuple(itertools.islice(_free(candidates[start:] + candidates[:start]), count))
    if len(found) < count:
        raise UserError(
            f"--workers={count} needs {count} free ports from {_PORTS.start} to {_PORTS.stop - 1}, but only {len(found)} are "
            "free: use fewer workers, or stop what listens there"
        )
    return found


def _free(candidates: Sequence[int]) -> Iterator[int]:
    # TensorFlow's server listens on all addresses, IPv6 and IPv4.
    families = (socket.AF_INET6, socket.AF_INET) if socket.has_ipv6 else (socket.AF_INET,)
    for port in candidates:
        if all(_can_bind(family, port) for family in families):
            yield port


def _can_bind(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind(("", port))
    except OSError as error:
        # A kernel without IPv6 fails here with another error; then no process has the IPv6 address.
        return family == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def _ephemeral_ports() -> range:
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)
