"""A job as processes of this machine: the workers' guards, which a supervisor restarts as their exit codes ask."""

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

from launch.job import SECRET, Job
from launch.local.processes import Spec, Worker
from trainer.errors import UserError

# Each costs the supervisor two of the 1024 files that a process may usually have open.
_MOST_WORKERS = 256

_PORTS = range(20_000, 30_000)
_DRIVER = Path("/proc/driver/nvidia/gpus")  # NVIDIA's: a folder a GPU.


def plan(job: Job) -> Spec:
    """The processes that a job becomes on this machine as it is now.

    Raises:
      UserError: it cannot have so many.
    """
    if job.workers > _MOST_WORKERS:
        raise UserError(f"--workers={job.workers} is too many for one machine: at most {_MOST_WORKERS}")
    gpus = visible_gpus({**os.environ, **job.env})
    if job.workers > 1 and len(gpus) > 1 and job.workers != len(gpus):
        print(f"launch: {job.workers} workers on {len(gpus)} GPUs: as many of the one as of the other is best", file=sys.stderr)
    return specify(
        job,
        job_id=job.new_name(),
        ports=free_ports(job.workers) if job.workers > 1 else (),
        gpus=gpus,
    )


def specify(job: Job, *, job_id: str, ports: Sequence[int], gpus: Sequence[str]) -> Spec:
    """The processes that a job becomes.

    Args:
      job: the job.
      job_id: names this launch of it, the same for all its workers and their restarts.
      ports: one for each of several workers.
      gpus: the devices that CUDA_VISIBLE_DEVICES may name.
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
    """The TF_CONFIG of one of several workers."""
    task = {"type": "worker", "index": index - 1} if index else {"type": "chief", "index": 0}
    return {"cluster": {"chief": [addresses[0]], "worker": list(addresses[1:])}, "task": task}


def describe(spec: Spec) -> dict[str, Any]:
    """A spec to be shown: what may be a secret is masked."""
    description = dataclasses.asdict(spec)
    for worker in description["workers"]:
        worker["environment"] = {key: "***" if SECRET.search(key) else value for key, value in worker["environment"].items()}
    return description


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a process with this environment may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(map(str, range(_count_gpus())))
    # CUDA reads the list up to the first name that is none; -1 hides all GPUs.
    return tuple(itertools.takewhile(lambda name: name not in ("", "-1"), (name.strip() for name in chosen.split(","))))


def _count_gpus() -> int:
    """How many GPUs of NVIDIA the machine has; without their driver none."""
    with contextlib.suppress(OSError):
        return len(list(_DRIVER.iterdir()))
    if shutil.which("nvidia-smi"):  # Windows' Linux has the driver, but not its folder.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
            return sum(line.startswith("GPU ") for line in listing.splitlines())
    return 0


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nothing on this machine listens on, and that the system gives to no outgoing connection.

    They are looked for from a random place on, so that two launches at the same moment do not choose the same ones.

    Raises:
      UserError: there are fewer.
    """
    ephemeral = _ephemeral_ports()
    candidates = [port for port in _PORTS if port not in ephemeral] or list(_PORTS)
    start = random.SystemRandom().randrange(len(candidates))
    found = tuple(itertools.islice(_free(candidates[start:] + candidates[:start]), count))
    if len(found) < count:
        raise UserError(
            f"--workers={count} needs as many free ports from {_PORTS.start} to {_PORTS.stop - 1}: only {len(found)} are"
        )
    return found


def _free(candidates: Sequence[int]) -> Iterator[int]:
    # TensorFlow's server binds all addresses, of both kinds where there are both.
    kinds = (socket.AF_INET6, socket.AF_INET) if socket.has_ipv6 else (socket.AF_INET,)
    for port in candidates:
        if all(_can_bind(kind, port) for kind in kinds):
            yield port


def _can_bind(kind: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as listener:
            if kind == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(("", port))
    except OSError as error:
        # A kernel without IPv6 says so here: such an address is no one's.
        return kind == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def _ephemeral_ports() -> range:
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)
