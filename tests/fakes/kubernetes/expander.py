"""Expands a job's objects as Kubernetes does, into pods with arguments, environments, mounts and names.

It reads only YAML, and shares no code with launch or trainer. An unknown field is an error, so that a new field in a spec is also
handled here. The controllers are in controllers.py; node.py runs the pods as processes.
"""

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import kubernetes_validate
import yaml

from tests.fakes.kubernetes import rules

# The variables in every container for the API server's own Service.
CLUSTER_VARIABLES = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT": "tcp://10.0.0.1:443",
}

_LONGEST_LABEL = 63
_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

# Fields that the expander handles, or that do not change what runs: scheduling, resources, identity in Google Cloud.
_POD_FIELDS = {
    *("restartPolicy", "subdomain", "terminationGracePeriodSeconds", "enableServiceLinks", "securityContext", "containers"),
    *("volumes", "serviceAccountName", "automountServiceAccountToken", "nodeSelector", "tolerations"),
}
_CONTAINER_FIELDS = {"name", "image", "command", "args", "env", "ports", "resources", "securityContext", "volumeMounts"}


class Invalid(Exception):
    """The API server or a node refuses an object."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """A mounted folder of a container.

    Attributes:
      path: path in the container.
      kind: `disk` or `memory` for a volume of the pod, or `gcs` for all buckets as folders.
      size: size limit of a memory volume in Kubernetes's notation; empty for no limit.
    """

    path: str
    kind: str
    size: str = ""


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod of one container, as a node reads it.

    Attributes:
      job: name of its Job.
      index: completion index in the Job.
      hostname: host name in the pod and, followed by the subdomain, in the cluster.
      subdomain: name of the Service that may give it a DNS name.
      namespace: namespace of the pod.
      labels: its labels, including the job controller's.
      container: name of the container.
      command: command with its arguments.
      environment: variables that are added to the image's own.
      mounts: mounted folders.
      user: user id.
      group: group id.
      volume_group: id of the group that owns the pod's volumes.
      read_only: whether everything outside the mounts is read-only.
      bounded: whether it has no capabilities and cannot gain any.
      grace: seconds between SIGTERM and SIGKILL.
    """

    job: str
    index: int
    hostname: str
    subdomain: str
    namespace: str
    labels: Mapping[str, str]
    container: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: int
    group: int
    volume_group: int | None
    read_only: bool
    bounded: bool
    grace: float


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The objects of a YAML stream: one Job or JobSet, and Services."""

    workload: dict[str, Any]
    services: tuple[dict[str, Any], ...]

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return str(self.workload["metadata"].get("namespace", "default"))

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Returns the spec of each Job by name. For a JobSet, its controller creates these Jobs."""
        name, spec = self.workload["metadata"]["name"], self.workload["spec"]
        if self.workload["kind"] == "Job":
            return {name: copy.deepcopy(spec)}
        if spec.get("network", {}).get("enableDNSHostnames", True):
            raise NotImplementedError("enableDNSHostnames: the Service that JobSet creates is not emulated")
        return {
            f"{name}-{replicated['name']}-{number}": copy.deepcopy(replicated["template"]["spec"])
            for replicated in spec["replicatedJobs"]
            for number in range(replicated.get("replicas", 1))
        }

    def pods(self) -> list[Pod]:
        """Returns the pods of a job in which no pod fails."""
        return [self.pod(name, index) for name, job in self.jobs().items() for index in range(job["completions"])]

    def pod(self, job: str, index: int) -> Pod:
        """Returns the pod that the job controller and a node make from a Job's template.

        Raises:
          Invalid: the controller or the node refuses it.
        """
        template = self.jobs()[job]["template"]
        spec, (container,) = template["spec"], template["spec"]["containers"]
        for found, known in ((spec, _POD_FIELDS), (container, _CONTAINER_FIELDS)):
            if unknown := found.keys() - known:
                raise NotImplementedError(f"unknown fields {', '.join(sorted(unknown))}: teach the expander what they do")
        hostname = f"{job}-{index}"
        if len(hostname) > _LONGEST_LABEL or not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", hostname):
            raise Invalid(f"{hostname} is not a host name")
        variables = list(container.get("env", []))
        if all(each["name"] != "JOB_COMPLETION_INDEX" for each in variables):
            variables.append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        links = self._links() if spec.get("enableServiceLinks", True) else {}
        environment = _environment(variables, CLUSTER_VARIABLES | links)
        security = spec.get("securityContext", {}) | container.get("securityContext", {})
        if security.get("runAsNonRoot") and not security.get("runAsUser"):
            raise Invalid("the container has runAsNonRoot, and would run as root")
        drops = security.get("capabilities", {}).get("drop", []) == ["ALL"]
        if "command" not in container:
            raise Invalid("the image has no command of its own")
        return Pod(
            job=job,
            index=index,
            hostname=hostname,
            subdomain=spec.get("subdomain", ""),
            namespace=self.namespace,
            labels=template.get("metadata", {}).get("labels", {}) | {"batch.kubernetes.io/job-name": job, _INDEX_LABEL: str(index)},
            container=container["name"],
            command=tuple(expand(word, environment) for word in (*container["command"], *container.get("args", []))),
            environment=environment | {"HOSTNAME": hostname},
            mounts=tuple(_mounts(spec, container)),
            user=security.get("runAsUser", 0),
            group=security.get("runAsGroup", 0),
            volume_group=security.get("fsGroup"),
            read_only=security.get("readOnlyRootFilesystem", False),
            bounded=drops and security.get("allowPrivilegeEscalation") is False,
            grace=spec.get("terminationGracePeriodSeconds", 30),
        )

    def _links(self) -> dict[str, str]:
        """Returns the variables that announce Services to containers; headless Services have none."""
        made: dict[str, str] = {}
        for service in self.services:
            if service["spec"].get("clusterIP") == "None" or service["metadata"].get("namespace", "default") != self.namespace:
                continue
            name, port = service["metadata"]["name"].upper().replace("-", "_"), str(service["spec"]["ports"][0]["port"])
            made |= {f"{name}_SERVICE_HOST": "10.0.0.2", f"{name}_SERVICE_PORT": port, f"{name}_PORT": f"tcp://10.0.0.2:{port}"}
        return made


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A pod's state in the view of the cluster's DNS."""

    pod: Pod
    address: str
    ready: bool = True
    terminating: bool = False


def load(text: str, *, check_rules: bool = True) -> Manifest:
    """Reads a stream of YAML as the API server does.

    Args:
      text: YAML stream.
      check_rules: whether to check also what this package's workers need.

    Raises:
      Invalid: an object does not match its schema, or breaks a rule.
    """
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        found = each
        if each["kind"] == "JobSet":  # Kubernetes has no schema for a JobSet, but one for its child Job.
            (replicated,) = each["spec"]["replicatedJobs"]
            found = {"apiVersion": "batch/v1", "kind": "Job", "metadata": each["metadata"], "spec": replicated["template"]["spec"]}
        try:
            kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Invalid(str(error)) from error
    if check_rules and (violations := rules.violations(objects)):
        raise Invalid("; ".join(violations))
    (workload,) = (each for each in objects if each["kind"] in ("Job", "JobSet"))
    return Manifest(workload, tuple(each for each in objects if each["kind"] == "Service"))


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expands a value or an argument: `$(NAME)` becomes the variable's value, or stays if there is none; `$$` becomes `$`."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    # From left to right, without expanding inserted values again. A name extends to the next `)`, whatever it contains.
    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)


def names(services: Iterable[Mapping[str, Any]], endpoints: Iterable[Endpoint]) -> dict[str, str]:
    """Returns the DNS names of pods that resolve in their namespace, with their addresses.

    A pod has a name if a headless Service in its namespace is named like the pod's subdomain and selects the pod. A pod that is not
    ready, or is terminating, has a name only if the Service publishes addresses that are not ready.
    """
    found = {}
    for service in services:
        name, spec = service["metadata"]["name"], service["spec"]
        if spec.get("clusterIP") != "None":
            continue
        for each in endpoints:
            pod = each.pod
            is_published = spec.get("publishNotReadyAddresses", False) or (each.ready and not each.terminating)
            is_selected = bool(spec.get("selector")) and spec["selector"].items() <= pod.labels.items()
            is_here = service["metadata"].get("namespace", "default") == pod.namespace and pod.subdomain == name
            if is_here and is_selected and is_published:
                for suffix in ("", f".{pod.namespace}", f".{pod.namespace}.svc", f".{pod.namespace}.svc.cluster.local"):
                    found[f"{pod.hostname}.{name}{suffix}"] = each.address
    return found


def _environment(variables: Iterable[Mapping[str, str]], given: Mapping[str, str]) -> dict[str, str]:
    """Returns a container's variables: each may refer to earlier ones, and replaces a given one of the same name."""
    made: dict[str, str] = {}
    for each in variables:
        if each.keys() - {"name", "value"}:
            raise NotImplementedError(f"the source of {each['name']} is not emulated")
        made[each["name"]] = expand(each.get("value", ""), {**given, **made})
    return {**given, **made}


def _mounts(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterable[Mount]:
    volumes = {each["name"]: each for each in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            raise Invalid(f"there is no volume {mount['name']}")
        volume = {key: value for key, value in volumes[mount["name"]].items() if key != "name"}
        if volume.keys() == {"emptyDir"} and not volume["emptyDir"].keys() - {"medium", "sizeLimit"}:
            kind = "memory" if volume["emptyDir"].get("medium") == "Memory" else "disk"
            yield Mount(mount["mountPath"], kind, volume["emptyDir"].get("sizeLimit", ""))
        elif volume.get("csi", {}).get("driver") == "gcsfuse.csi.storage.gke.io":
            if volume["csi"]["volumeAttributes"]["bucketName"] != "_":
                raise NotImplementedError("mounts of a single bucket are not emulated")
            yield Mount(mount["mountPath"], "gcs")
        else:
            raise NotImplementedError(f"the kind of volume {mount['name']} is not emulated")
