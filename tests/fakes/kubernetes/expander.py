"""What Kubernetes makes of the objects of a job: the pods with their arguments, environments, mounts and names.

Reads nothing but YAML, and shares no code with launch or trainer. A field that it does not know is an error: whoever adds one to a
spec decides here what it does. Beside it controllers.py has the controllers, and node.py runs pods as processes.
"""

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import kubernetes_validate
import yaml

from tests.fakes.kubernetes import rules

# What the API server's own Service is called in every container.
CLUSTER_VARIABLES = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT": "tcp://10.0.0.1:443",
}

_LONGEST_LABEL = 63
_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

# Known to the expander, or without a meaning for what runs: where it is scheduled, what it may use, who it is to Google Cloud.
_POD_FIELDS = {
    *("restartPolicy", "subdomain", "terminationGracePeriodSeconds", "enableServiceLinks", "securityContext", "containers"),
    *("volumes", "serviceAccountName", "automountServiceAccountToken", "nodeSelector", "tolerations"),
}
_CONTAINER_FIELDS = {"name", "image", "command", "args", "env", "ports", "resources", "securityContext", "volumeMounts"}


class Invalid(Exception):
    """The API server, or a node, refuses an object."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """A folder of a container.

    Attributes:
      path: where it is.
      kind: disk or memory, of the pod's own, or gcs: all buckets, as folders.
      size: of memory, as Kubernetes writes it; empty for no limit.
    """

    path: str
    kind: str
    size: str = ""


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod of one container, as a node reads it.

    Attributes:
      job: the Job that it is of.
      index: its index in that.
      hostname: the host's name in it, and with its subdomain in the cluster.
      subdomain: the Service under which it may have a name.
      namespace: where it is.
      labels: its labels, those of the job controller too.
      container: the container's name.
      command: what is run.
      environment: in which; beside it the image's own.
      mounts: the folders that it has.
      user: the user's number.
      group: the group's.
      volume_group: the group that the pod's own folders belong to.
      read_only: whether all else cannot be written.
      bounded: whether it has no capabilities, nor a way to any.
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
    """The objects of a stream: one Job or JobSet, and Services."""

    workload: dict[str, Any]
    services: tuple[dict[str, Any], ...]

    @property
    def namespace(self) -> str:
        """Where the job is."""
        return str(self.workload["metadata"].get("namespace", "default"))

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The spec of each Job by its name; those of a JobSet as its controller makes them."""
        name, spec = self.workload["metadata"]["name"], self.workload["spec"]
        if self.workload["kind"] == "Job":
            return {name: copy.deepcopy(spec)}
        if spec.get("network", {}).get("enableDNSHostnames", True):
            raise NotImplementedError("a Service that JobSet makes")
        return {
            f"{name}-{replicated['name']}-{number}": copy.deepcopy(replicated["template"]["spec"])
            for replicated in spec["replicatedJobs"]
            for number in range(replicated.get("replicas", 1))
        }

    def pods(self) -> list[Pod]:
        """The pods that run together when all is well."""
        return [self.pod(name, index) for name, job in self.jobs().items() for index in range(job["completions"])]

    def pod(self, job: str, index: int) -> Pod:
        """What the job controller and a node make of a Job's template.

        Raises:
          Invalid: they refuse it.
        """
        template = self.jobs()[job]["template"]
        spec, (container,) = template["spec"], template["spec"]["containers"]
        for found, known in ((spec, _POD_FIELDS), (container, _CONTAINER_FIELDS)):
            if unknown := found.keys() - known:
                raise NotImplementedError(f"what do {', '.join(sorted(unknown))} do?")
        hostname = f"{job}-{index}"
        if len(hostname) > _LONGEST_LABEL or not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", hostname):
            raise Invalid(f"{hostname} is no host name")
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
        """The variables by which Services are known; a headless one has none."""
        made: dict[str, str] = {}
        for service in self.services:
            if service["spec"].get("clusterIP") == "None" or service["metadata"].get("namespace", "default") != self.namespace:
                continue
            name, port = service["metadata"]["name"].upper().replace("-", "_"), str(service["spec"]["ports"][0]["port"])
            made |= {f"{name}_SERVICE_HOST": "10.0.0.2", f"{name}_SERVICE_PORT": port, f"{name}_PORT": f"tcp://10.0.0.2:{port}"}
        return made


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A pod that has an address, as the cluster's DNS sees it."""

    pod: Pod
    address: str
    ready: bool = True
    terminating: bool = False


def load(text: str, *, check_rules: bool = True) -> Manifest:
    """Reads a stream of YAML as the API server does.

    Args:
      text: the stream.
      check_rules: whether to ask also for what workers of this package need.

    Raises:
      Invalid: an object is against its schema or breaks a rule.
    """
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        found = each
        if each["kind"] == "JobSet":  # There is no schema of it; that of its child there is.
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
    """A value or an argument as it reaches a container: `$(NAME)` is a variable, or itself where there is none; `$$` is `$`."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    # From left to right; what was put in is not looked at again. A name goes to the next `)`, whatever is in it.
    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)


def names(services: Iterable[Mapping[str, Any]], endpoints: Iterable[Endpoint]) -> dict[str, str]:
    """The names of pods that resolve in their namespace, with their addresses.

    A pod has one under a headless Service that is called as the pod's subdomain and selects it, in the same namespace. A pod that
    is not ready, or is being ended, has none unless the Service publishes it all the same.
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
    """The variables of a container: each may name those before it, and stands in place of one that is given."""
    made: dict[str, str] = {}
    for each in variables:
        if each.keys() - {"name", "value"}:
            raise NotImplementedError(f"where does {each['name']} come from?")
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
                raise NotImplementedError("a single bucket as a folder")
            yield Mount(mount["mountPath"], "gcs")
        else:
            raise NotImplementedError(f"what is in the volume {mount['name']}?")
