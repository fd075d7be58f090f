"""Finds the workers of a job in the environment, whatever platform started them.

`TF_CONFIG` (Vertex AI, Kubeflow, workers started by hand) comes first. Without it, an Indexed Job or a JobSet on Kubernetes gives
each pod its index in JOB_COMPLETION_INDEX, and the launcher adds what Kubernetes does not say: POSTER_WORKERS, POSTER_SERVICE and
POSTER_PORT.
"""

import ipaddress
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError

# Workers are numbered in this order of roles; master is the old name of the chief.
_TRAINING_ROLES = ("chief", "master", "worker")
_OTHER_ROLES = ("ps", "evaluator")

_DEFAULT_PORT = 2222
LONGEST_HOST_LABEL = 63  # Characters of a host name between two dots (RFC 1035); Kubernetes cuts a pod's host name there.


@dataclass(frozen=True)
class Cluster:
    """The workers of a job, as one of them sees it.

    Attributes:
      addresses: the "host:port" of every worker, the chief first; empty where nothing describes a cluster.
      index: the index of this worker in `addresses`, 0 for the chief.
      source: what described the cluster, for messages.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    @property
    def workers(self) -> int:
        """The number of workers, at least 1."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the chief, which alone writes to the job directory."""
        return self.index == 0


def discover(environ: Mapping[str, str] = os.environ, hostname: str | None = None) -> Cluster:
    """Reads the cluster from the environment.

    Args:
      environ: the environment variables; a blank one counts as not set.
      hostname: the name of this machine, by default the system's; only an Indexed Job needs it.

    Returns:
      The cluster. It has one worker and no addresses if the environment does not describe one.

    Raises:
      UserError: the description is wrong or contradicts itself, or gives this process a role that does not train.
    """
    tf_config = environ.get("TF_CONFIG", "").strip()
    if tf_config:
        return _from_tf_config(tf_config)
    return _from_indexed_job(environ, socket.gethostname() if hostname is None else hostname)


def host_and_port(address: str) -> tuple[str, int]:
    """Splits "host:port" into host and port; an IPv6 host stands in brackets, and is returned without them.

    Raises:
      ValueError: the address is not host:port. The message completes the sentence "ADDRESS is …".
    """
    host, _, digits = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", digits):
        raise ValueError("not host:port")
    port = int(digits)
    if not 1 <= port <= 65535:
        raise ValueError("not host:port with a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), port
        except ValueError:
            raise ValueError("not host:port: the brackets do not hold an IPv6 address") from None
    labels = host.removesuffix(".").split(".")
    if not all(re.fullmatch("[A-Za-z0-9_-]+", label) for label in labels):
        raise ValueError("not host:port (an IPv6 address needs brackets)")
    if len(host) > 253 or max(map(len, labels)) > LONGEST_HOST_LABEL:
        raise ValueError(f"too long for a host name, which has at most {LONGEST_HOST_LABEL} characters between dots and 253 in all")
    return host, port


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"TF_CONFIG is not valid JSON ({error}): correct it, or unset it to train on one worker") from None
    if not isinstance(config, dict):
        raise UserError(f"TF_CONFIG must be a JSON object with cluster and task, got {_shown(config)}")
    if "sparseCluster" in config:
        raise UserError(
            "TF_CONFIG has a sparseCluster, which does not list all workers: set enableDynamicWorker: false in the TFJob"
        )
    cluster, task = _object(config, "cluster"), _object(config, "task")
    role, index = task.get("type"), task.get("index")
    if role in _OTHER_ROLES:
        raise UserError(
            f"TF_CONFIG gives this process the role {role}, which training does not use: leave that role out (on Vertex AI: worker "
            f"pool {'2' if role == 'ps' else '3'})"
        )
    members = _members(cluster)
    addresses = [address for name in _TRAINING_ROLES for address in members[name]]
    if not addresses and not task:
        return Cluster((), 0, "TF_CONFIG")
    if not task:
        raise UserError('TF_CONFIG has a cluster but no task: add the task of this worker, "task": {"type": …, "index": …}')
    if role not in _TRAINING_ROLES:
        raise UserError(f"TF_CONFIG: task type must be one of {', '.join(_TRAINING_ROLES)}, got {_shown(role)}")
    if not isinstance(index, int) or isinstance(index, bool):
        raise UserError(f"TF_CONFIG: task index must be a whole number, counted from 0 among {role}s, got {_shown(index)}")
    if not addresses:
        if index != 0:
            raise UserError(f"TF_CONFIG has task index {index} but no cluster: add the cluster, or set the index to 0")
        return Cluster((), 0, "TF_CONFIG")
    if not members[role]:
        raise UserError(f"TF_CONFIG: cluster has no address for the task type {role}: add one, or correct the type")
    if not 0 <= index < len(members[role]):
        raise UserError(
            f"TF_CONFIG: task index must be from 0 to {len(members[role]) - 1}, because cluster has {len(members[role])} "
            f"address(es) for {role}, got {index}"
        )
    return Cluster(tuple(addresses), addresses.index(members[role][index]), "TF_CONFIG")


def _members(cluster: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the addresses of each role that trains."""
    for role in cluster:
        if role not in _TRAINING_ROLES + _OTHER_ROLES:
            known = ", ".join(_TRAINING_ROLES + _OTHER_ROLES)
            raise UserError(f"TF_CONFIG: cluster has the unknown role {_shown(role)}: use only {known}")
    # Programs in Go write null for an empty list.
    members = {role: [] if cluster.get(role) is None else cluster[role] for role in _TRAINING_ROLES}
    found = set()
    for role, addresses in members.items():
        if not isinstance(addresses, list):
            raise UserError(f'TF_CONFIG: cluster {role} must be a list such as ["host:port"], got {_shown(addresses)}')
        for address in addresses:
            try:
                host_and_port(address if isinstance(address, str) else "")
            except ValueError as error:
                raise UserError(f"TF_CONFIG: address {_shown(address)} of a {role} is {error}: correct it") from None
            if address in found:
                raise UserError(f"TF_CONFIG: address {address} occurs twice: give every worker its own host or port")
            found.add(address)
    if members["chief"] and members["master"]:
        raise UserError("TF_CONFIG: cluster has both a chief and a master, which are the same role: keep one of them")
    for role in ("chief", "master"):
        if len(members[role]) > 1:
            raise UserError(
                f"TF_CONFIG: cluster has {len(members[role])} addresses for {role}: keep one, and list the others as worker"
            )
    return members


def _from_indexed_job(environ: Mapping[str, str], hostname: str) -> Cluster:
    workers = _number(environ, "POSTER_WORKERS", 1, 100_000)
    index = _number(environ, "JOB_COMPLETION_INDEX", 0, 10**9)
    if workers is None:
        return Cluster((), 0, "nothing describes a cluster")
    if index is not None and index >= workers:
        raise UserError(
            f"JOB_COMPLETION_INDEX={index} is not below POSTER_WORKERS={workers}: set the Job's completions and parallelism to "
            "POSTER_WORKERS"
        )
    if workers == 1:
        return Cluster((), 0, "nothing describes a cluster")
    if index is None:
        raise UserError(
            f"POSTER_WORKERS={workers}, but JOB_COMPLETION_INDEX is not set: set completionMode: Indexed in the Job, "
            "or unset POSTER_WORKERS"
        )
    service = environ.get("POSTER_SERVICE", "").strip()
    if not service:
        raise UserError(
            f"POSTER_WORKERS={workers}, but POSTER_SERVICE is not set: set it to the headless Service of the Job's pods"
        )
    port = _number(environ, "POSTER_PORT", 1, 65535) or _DEFAULT_PORT
    # Kubernetes gives a pod of an Indexed Job the host name JOB-INDEX, a pod of a JobSet JOBSET-REPLICATEDJOB-JOBINDEX-INDEX.
    # With setHostnameAsFQDN the name also has the Service and the namespace.
    name = hostname.partition(".")[0]
    base = name.removesuffix(f"-{index}")
    if base in ("", name):
        raise UserError(
            f"host name {_quoted(name)} does not end in -{index}, the JOB_COMPLETION_INDEX: leave hostname and hostNetwork out of "
            f"the pod template, and choose a Job name so short that the host name fits into {LONGEST_HOST_LABEL} characters"
        )
    longest = f"{base}-{workers - 1}"
    if len(longest) > LONGEST_HOST_LABEL:
        raise UserError(
            f"host name {longest} has {len(longest)} characters, more than the {LONGEST_HOST_LABEL} allowed: shorten the Job's name"
        )
    addresses = tuple(f"{base}-{i}.{service}:{port}" for i in range(workers))
    try:
        host_and_port(addresses[-1])
    except ValueError as error:
        raise UserError(
            f"POSTER_SERVICE={_quoted(service)} makes the address {_quoted(addresses[-1])}, which is {error}: set it to the Job's "
            "headless Service"
        ) from None
    return Cluster(addresses, index, "Indexed Job")


def _number(environ: Mapping[str, str], name: str, minimum: int, maximum: int) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or not minimum <= int(text) <= maximum:
        raise UserError(f"{name} must be a whole number from {minimum} to {maximum}, got {_quoted(text)}")
    return int(text)


def _object(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = {} if config.get(key) is None else config[key]
    if not isinstance(value, dict):
        raise UserError(f"TF_CONFIG: {key} must be a JSON object, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Returns a value of TF_CONFIG as JSON, in one line and shortened."""
    return _shortened(json.dumps(value))


def _quoted(text: str) -> str:
    """Returns a text in quotes, in one line and shortened."""
    return _shortened(repr(text))


def _shortened(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:88]} …"
