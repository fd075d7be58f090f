"""Which workers make up a job: one description, whatever started them.

`TF_CONFIG` (Vertex AI, Kubeflow, a desk) comes first. Without it an Indexed Job or a JobSet on Kubernetes says each pod's place in
JOB_COMPLETION_INDEX, and the launcher adds what Kubernetes does not tell: POSTER_WORKERS, POSTER_SERVICE and POSTER_PORT.
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

# In the order of their workers; master is the chief's old name.
_TRAINING_ROLES = ("chief", "master", "worker")
_OTHER_ROLES = ("ps", "evaluator")

_DEFAULT_PORT = 2222
_LONGEST_LABEL = 63  # Of a host name between its dots, RFC 1035; Kubernetes cuts a pod's host name there.


@dataclass(frozen=True)
class Cluster:
    """The workers of a job, as one of them sees it.

    Attributes:
      addresses: "host:port" of every worker, the chief first; empty where the process is alone.
      index: this worker's place among them.
      source: what described the cluster, for the log.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    @property
    def workers(self) -> int:
        """How many there are; one that is alone counts."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.index == 0


def discover(environ: Mapping[str, str] = os.environ, hostname: str | None = None) -> Cluster:
    """Reads the cluster from the environment.

    Args:
      environ: the environment variables; a blank one counts as not set.
      hostname: this machine's name, the system's own unless given; only an Indexed Job needs it.

    Raises:
      UserError: the description is wrong or contradicts itself, or gives this process a role that does not train.
    """
    tf_config = environ.get("TF_CONFIG", "").strip()
    if tf_config:
        return _from_tf_config(tf_config)
    return _from_indexed_job(environ, socket.gethostname() if hostname is None else hostname)


def host_and_port(address: str) -> tuple[str, int]:
    """Takes "host:port" apart; an IPv6 host stands in brackets, and is returned without them.

    Raises:
      ValueError: it is none; the text goes on after "is".
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
            raise ValueError("not host:port: there is no IPv6 address in its brackets") from None
    labels = host.removesuffix(".").split(".")
    if not all(re.fullmatch("[A-Za-z0-9_-]+", label) for label in labels):
        raise ValueError("not host:port (an IPv6 address needs brackets)")
    if len(host) > 253 or max(map(len, labels)) > _LONGEST_LABEL:
        raise ValueError(f"too long for a host name: {_LONGEST_LABEL} characters between its dots, 253 in all")
    return host, port


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"TF_CONFIG is not JSON ({error}): correct it, or unset it for a worker that is alone") from None
    if not isinstance(config, dict):
        raise UserError(f"TF_CONFIG is {_shown(config)}, not an object with cluster and task: correct it, or unset it")
    if "sparseCluster" in config:
        raise UserError(
            "TF_CONFIG has a sparseCluster, which does not name all workers: switch enableDynamicWorker off in the TFJob"
        )
    cluster, task = _object(config, "cluster"), _object(config, "task")
    role, index = task.get("type"), task.get("index")
    if role in _OTHER_ROLES:
        raise UserError(
            f"TF_CONFIG makes this process a {role}, and training has none: leave that role out (on Vertex AI worker pool "
            f"{'2' if role == 'ps' else '3'})"
        )
    members = _members(cluster)
    addresses = [address for name in _TRAINING_ROLES for address in members[name]]
    if not addresses and not task:
        return Cluster((), 0, "TF_CONFIG")
    if not task:
        raise UserError('TF_CONFIG has a cluster but no task: add which of its workers this is, "task": {"type": …, "index": …}')
    if role not in _TRAINING_ROLES:
        raise UserError(f"TF_CONFIG: task type {_shown(role)} is none of {', '.join(_TRAINING_ROLES)}: correct it")
    if not isinstance(index, int) or isinstance(index, bool):
        raise UserError(f"TF_CONFIG: task index {_shown(index)} is not a whole number: give this {role}'s, counted from 0")
    if not addresses:
        if index != 0:
            raise UserError(f"TF_CONFIG: task index {index}, but no cluster: add the cluster, or make the index 0")
        return Cluster((), 0, "TF_CONFIG")
    if not members[role]:
        raise UserError(f"TF_CONFIG: task type {role} has no addresses in cluster: add them, or correct the type")
    if not 0 <= index < len(members[role]):
        raise UserError(
            f"TF_CONFIG: task index {index} is not from 0 to {len(members[role]) - 1}, as cluster has {role}s: correct it"
        )
    return Cluster(tuple(addresses), addresses.index(members[role][index]), "TF_CONFIG")


def _members(cluster: dict[str, Any]) -> dict[str, list[str]]:
    """The addresses of each role that trains; the others' do not matter."""
    for role in cluster:
        if role not in _TRAINING_ROLES + _OTHER_ROLES:
            known = ", ".join(_TRAINING_ROLES + _OTHER_ROLES)
            raise UserError(f"TF_CONFIG: cluster has the unknown role {_shown(role)}: use {known}")
    # Writers in Go say null for an empty list.
    members = {role: [] if cluster.get(role) is None else cluster[role] for role in _TRAINING_ROLES}
    found = set()
    for role, addresses in members.items():
        if not isinstance(addresses, list):
            raise UserError(f"TF_CONFIG: cluster {role} is {_shown(addresses)}, not a list of addresses: write [host:port, …]")
        for address in addresses:
            try:
                host_and_port(address if isinstance(address, str) else "")
            except ValueError as error:
                raise UserError(f"TF_CONFIG: address {_shown(address)} of a {role} is {error}: correct it") from None
            if address in found:
                raise UserError(f"TF_CONFIG: address {address} is there twice: every worker needs its own host or port")
            found.add(address)
    if members["chief"] and members["master"]:
        raise UserError("TF_CONFIG: cluster has a chief and a master, which are the same role: keep one of them")
    for role in ("chief", "master"):
        if len(members[role]) > 1:
            raise UserError(f"TF_CONFIG: cluster has {len(members[role])} addresses of a {role}: keep one, make the others worker")
    return members


def _from_indexed_job(environ: Mapping[str, str], hostname: str) -> Cluster:
    workers = _number(environ, "POSTER_WORKERS", 1, 100_000)
    index = _number(environ, "JOB_COMPLETION_INDEX", 0, 10**9)
    if workers is None:
        return Cluster((), 0, "nothing describes a cluster")
    if index is not None and index >= workers:
        raise UserError(
            f"JOB_COMPLETION_INDEX={index} with POSTER_WORKERS={workers}: give the Job as many completions and parallelism as "
            "POSTER_WORKERS says"
        )
    if workers == 1:
        return Cluster((), 0, "nothing describes a cluster")
    if index is None:
        raise UserError(
            f"POSTER_WORKERS={workers}, but JOB_COMPLETION_INDEX is not set: use a Job with completionMode: Indexed, "
            "or unset POSTER_WORKERS"
        )
    service = environ.get("POSTER_SERVICE", "").strip()
    if not service:
        raise UserError(f"POSTER_WORKERS={workers}, but POSTER_SERVICE is not set: name the headless Service of the Job's pods")
    port = _number(environ, "POSTER_PORT", 1, 65535) or _DEFAULT_PORT
    # Kubernetes names a pod of an Indexed Job JOB-INDEX, and of a JobSet JOBSET-REPLICATEDJOB-JOBINDEX-INDEX. A pod can be told to
    # use its full name, with the Service and the namespace.
    name = hostname.partition(".")[0]
    base = name.removesuffix(f"-{index}")
    if base in ("", name):
        raise UserError(
            f"host name {_shown(name)} does not end in -{index}, JOB_COMPLETION_INDEX: leave hostname and hostNetwork out of the "
            f"pod's template, and keep the Job's name so short that {_LONGEST_LABEL} characters hold both"
        )
    longest = f"{base}-{workers - 1}"
    if len(longest) > _LONGEST_LABEL:
        raise UserError(f"host name {longest} has {len(longest)} characters, not at most {_LONGEST_LABEL}: shorten the Job's name")
    addresses = tuple(f"{base}-{i}.{service}:{port}" for i in range(workers))
    try:
        host_and_port(addresses[-1])
    except ValueError as error:
        raise UserError(
            f"POSTER_SERVICE={_shown(service)} makes the address {_shown(addresses[-1])}, which is {error}: name the Job's Service"
        ) from None
    return Cluster(addresses, index, "Indexed Job")


def _number(environ: Mapping[str, str], name: str, minimum: int, maximum: int) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or not minimum <= int(text) <= maximum:
        raise UserError(f"{name}={_shown(text)} is not a whole number from {minimum} to {maximum}: correct it")
    return int(text)


def _object(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = {} if config.get(key) is None else config[key]
    if not isinstance(value, dict):
        raise UserError(f"TF_CONFIG: {key} is {_shown(value)}, not an object: correct it")
    return value


def _shown(value: Any) -> str:
    """A value as JSON, so that it fits into a line whatever it holds."""
    text = json.dumps(value)
    return text if len(text) <= 90 else f"{text[:88]} …"
