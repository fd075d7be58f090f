"""Which tf.distribute strategy a job runs under, and why."""

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

# What tensorflow-tpu supports; for TPU v6e and later there is no release of TensorFlow.
_LAST_TPU_GENERATION = 5


@dataclass(frozen=True)
class Choice:
    """A strategy, by the name that --strategy gives it, and why it was chosen."""

    name: str
    reason: str


def choose(name: str, *, workers: int, gpus: int, environ: Mapping[str, str], tpu_devices: bool) -> Choice:
    """Chooses a strategy, without making it.

    Args:
      name: what --strategy says.
      workers: how many workers the cluster has that is described; 0: none is described.
      gpus: GPUs of this machine.
      environ: the environment.
      tpu_devices: whether this machine has a TPU that TensorFlow can use.

    Raises:
      UserError: the strategy does not fit what is there.
    """
    choice = Choice(name, f"--strategy={name}") if name != "auto" else _automatic(workers, gpus, environ, tpu_devices)
    if choice.name == "tpu":
        if not _tpu_reason(environ, tpu_devices):
            raise UserError(
                "--strategy=tpu, but no TPU is configured: run on a TPU VM with what requirements-tpu.lock lists (TPU_NAME=local "
                "says that this is one), or choose --strategy=auto"
            )
        _check_one_supported_host(workers, environ)
    elif choice.name == "multi_worker":
        if not workers:
            raise UserError(
                "--strategy=multi_worker, but no cluster is described: set TF_CONFIG, or POSTER_WORKERS with JOB_COMPLETION_INDEX "
                "and POSTER_SERVICE, as python -m launch does, or choose --strategy=auto"
            )
    elif workers > 1:
        raise UserError(
            f"--strategy={name}, but a cluster of {workers} workers is described, each of which would train alone into one "
            f"directory: choose --strategy=multi_worker or auto, or describe no cluster (TF_CONFIG, POSTER_WORKERS)"
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
    """What says that there is a TPU, if anything does."""
    for variable in ("TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        if environ.get(variable):
            return f"{variable}={environ[variable]}"
    return "a TPU in this machine" if tpu_devices else None


def _check_one_supported_host(workers: int, environ: Mapping[str, str]) -> None:
    """Raises UserError for a TPU of several hosts, or of a kind that TensorFlow has no release for."""
    remedy = "choose a slice with one host, such as v5litepod-8, or GPUs"
    kind = environ.get("TPU_ACCELERATOR_TYPE", "")
    # v5litepod-8, v6e-8, tpu7x-8: the first number is the generation.
    generation = re.search(r"\d+", kind)
    if generation and int(generation[0]) > _LAST_TPU_GENERATION:
        raise UserError(
            f"TPU_ACCELERATOR_TYPE={kind}, but TensorFlow has no release for TPU v6e and later: use TPU v2 to v5 "
            f"(such as v5litepod-8), or GPUs"
        )
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host.strip()]
    if len(hosts) > 1:
        raise UserError(f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, but a job runs on a TPU of one host only: {remedy}")
    if workers > 1:
        raise UserError(f"a cluster of {workers} workers is described, but a job runs on a TPU of one host only: {remedy}")


def create(name: str, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Sets the GPUs up and makes the strategy; logs once what was chosen and why.

    A strategy for several workers must be made before TensorFlow runs its first operation.

    Args:
      name: one_device, mirrored, multi_worker or tpu; or auto: tpu where one is configured, multi_worker where `cluster` has
        several workers, mirrored where there are several GPUs, else one_device.
      cluster: the workers that train together; None: this one is alone.

    Raises:
      UserError: the strategy does not fit what is there.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Without this TensorFlow takes all of a GPU's memory, and a second process (a debugger, a notebook) none.
        tf.config.experimental.set_memory_growth(gpu, True)
    described = len(cluster.addresses) if cluster else 0
    choice = choose(name, workers=described, gpus=len(gpus), environ=os.environ, tpu_devices=_has_tpu())
    if choice.name == "tpu":
        strategy = _tpu()
    elif choice.name == "multi_worker":
        assert cluster is not None, "chosen only where one is described"
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
    """Whether this machine has a TPU chip, and the library through which TensorFlow speaks to it."""
    # TPU v2 to v4 are accel devices, v5 vfio devices; a container may see any of a machine's chips.
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _tpu() -> tf.distribute.Strategy:
    # On GKE, TPU_NAME may be a name of the scheduler's: a chip in this machine needs no name.
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
            f"no TPU was found at {address} ({reason}): run on a TPU VM with what requirements-tpu.lock lists, or choose "
            f"another --strategy"
        ) from None
