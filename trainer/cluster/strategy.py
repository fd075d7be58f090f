"""Chooses and creates the tf.distribute strategy that a job runs under."""

import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from trainer.cluster.discovery import Cluster
from trainer.errors import UserError

_log = logging.getLogger(__name__)

# The last generation that tensorflow-tpu supports: there is no release of TensorFlow for TPU v6e and later.
_LAST_TPU_GENERATION = 5


@dataclass(frozen=True)
class Choice:
    """A strategy and why it was chosen.

    Attributes:
      name: one of the values of --strategy, but not auto.
      reason: why it was chosen, for the log.
    """

    name: str
    reason: str


def choose(name: str, *, workers: int, gpus: int, environ: Mapping[str, str], tpu_devices: bool) -> Choice:
    """Chooses a strategy without creating it.

    Args:
      name: the value of --strategy.
      workers: the number of workers in the cluster, 0 if the environment does not describe one.
      gpus: the number of GPUs in this machine.
      environ: the environment variables.
      tpu_devices: whether this machine has a TPU that TensorFlow can use.

    Returns:
      The strategy and the reason.

    Raises:
      UserError: the strategy does not fit the machine or the cluster.
    """
    choice = Choice(name, f"--strategy={name}") if name != "auto" else _automatic(workers, gpus, environ, tpu_devices)
    if choice.name == "tpu":
        if not _tpu_reason(environ, tpu_devices):
            raise UserError(
                "--strategy=tpu, but no TPU is configured: run on a TPU VM with the packages of requirements-tpu.lock (set "
                "TPU_NAME=local if this is one), or choose --strategy=auto"
            )
        _check_one_supported_host(workers, environ)
    elif choice.name == "multi_worker":
        if not workers:
            raise UserError(
                "--strategy=multi_worker, but no cluster is described: set TF_CONFIG, or POSTER_WORKERS with JOB_COMPLETION_INDEX "
                "and POSTER_SERVICE (python -m launch does it), or choose --strategy=auto"
            )
    elif workers > 1:
        raise UserError(
            f"--strategy={name}, but the environment describes a cluster of {workers} workers, and each would train alone into the "
            "same directory: choose --strategy=multi_worker or auto, or unset TF_CONFIG and POSTER_WORKERS"
        )
    return choice


def _automatic(workers: int, gpus: int, environ: Mapping[str, str], tpu_devices: bool) -> Choice:
    tpu = _tpu_reason(environ, tpu_devices)
    if tpu:
        return Choice("tpu", tpu)
    if workers > 1:
        return Choice("multi_worker", f"a cluster of {workers} workers")
    if gpus > 1:
        return Choice("mirrored", f"{gpus} GPUs")
    return Choice("one_device", f"{gpus} GPU" if gpus else "no GPU")


def _tpu_reason(environ: Mapping[str, str], tpu_devices: bool) -> str | None:
    """Returns what shows that there is a TPU, or None."""
    for variable in ("TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        if environ.get(variable):
            return f"{variable}={environ[variable]}"
    return "a TPU in this machine" if tpu_devices else None


def _check_one_supported_host(workers: int, environ: Mapping[str, str]) -> None:
    """Raises UserError for a TPU with several hosts, or for a generation without a release of TensorFlow."""
    remedy = "choose a slice with one host, such as v5litepod-8, or GPUs"
    kind = environ.get("TPU_ACCELERATOR_TYPE", "")
    # v5litepod-8, v6e-8, tpu7x-8: the first number is the generation.
    generation = re.search(r"\d+", kind)
    if generation and int(generation[0]) > _LAST_TPU_GENERATION:
        raise UserError(
            f"TPU_ACCELERATOR_TYPE={kind}, but TensorFlow has no release for TPU v6e and later: use TPU v2 to v5 "
            "(such as v5litepod-8), or GPUs"
        )
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host.strip()]
    if len(hosts) > 1:
        raise UserError(f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, but a job can use a TPU with one host only: {remedy}")
    if workers > 1:
        raise UserError(f"a cluster of {workers} workers is described, but a job can use a TPU with one host only: {remedy}")


def create(name: str, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Sets up the GPUs and creates the strategy; logs which one and why.

    A strategy for several workers must be created before TensorFlow runs its first operation.

    Args:
      name: one_device, mirrored, multi_worker, tpu or auto. auto is tpu where a TPU is configured, multi_worker where `cluster`
        has several workers, mirrored where there are several GPUs, else one_device.
      cluster: the workers that train together, or None if this is the only one.

    Returns:
      The strategy.

    Raises:
      UserError: the strategy does not fit the machine or the cluster, or no TPU was found.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Otherwise TensorFlow takes all of a GPU's memory, and a second process (a debugger, a notebook) finds none.
        tf.config.experimental.set_memory_growth(gpu, True)
    described = len(cluster.addresses) if cluster else 0
    choice = choose(name, workers=described, gpus=len(gpus), environ=os.environ, tpu_devices=_has_tpu())
    if choice.name == "tpu":
        strategy = _tpu()
    elif choice.name == "multi_worker":
        assert cluster is not None, "chosen only where a cluster is described"
        strategy = _multi_worker(cluster)
    elif choice.name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        strategy = tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    _log.info("strategy %s (%s), %d replica(s)", choice.name, choice.reason, strategy.num_replicas_in_sync)
    return strategy


def _multi_worker(cluster: Cluster) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}), task_type="worker", task_id=cluster.index, rpc_layer="grpc"
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _has_tpu() -> bool:
    """Returns whether this machine has a TPU chip, and the library through which TensorFlow uses it."""
    # TPU v2 to v4 are accel devices, v5 vfio devices; a container may see any of a machine's chips.
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _tpu() -> tf.distribute.Strategy:
    # On GKE, TPU_NAME may be a name that the scheduler set: a chip in this machine is always "local".
    address = "local" if _has_tpu() else os.environ.get("TPU_NAME") or "local"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError, RuntimeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"no TPU was found at {address} ({reason}): run on a TPU VM with the packages of requirements-tpu.lock, or choose "
            "another --strategy"
        ) from None
