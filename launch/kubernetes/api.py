"""What launch asks of a cluster's API, through the official client, with errors that a user can act on."""

import contextlib
import dataclasses
import json
import logging
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from launch.kubernetes.spec import APP, CONTAINER, INSTANCE_LABEL, NAME_LABEL
from trainer.errors import LostService, UserError

_TIMES = (10.0, 60.0)  # Seconds to connect in, and to wait for an answer.
_LOG_SILENCE = 300.0  # Seconds; a follower that hears nothing for so long asks again.

# What a job may be: the same methods serve both.
_KINDS = {"Job": ("batch", "v1", "jobs"), "JobSet": ("jobset.x-k8s.io", "v1alpha2", "jobsets")}


class NotFound(UserError):
    """The cluster has no such object."""


class Forbidden(UserError):
    """The cluster does not let the user do it."""


class NotReady(Exception):
    """A container has no log yet."""


class Api:
    """The API of the cluster that the current context names."""

    def __init__(self, namespace: str | None) -> None:
        """Connects to nothing yet.

        Args:
          namespace: where the jobs are; None: the current context's.

        Raises:
          UserError: the client is not installed, or no cluster is configured.
        """
        try:
            import kubernetes as library
            import urllib3
        except ImportError as error:
            raise UserError(
                f"--target=kubernetes needs {error.name}, which is not installed: pip install 'poster-trainer[kubernetes]'"
            ) from None
        self._refused = library.client.ApiException
        self._errors = (self._refused, urllib3.exceptions.HTTPError)
        configuration = library.client.Configuration()
        current = _configure(library, configuration)
        configuration.retries = 1
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # It tells of every retry. A configuration changes that.
        client = library.client.ApiClient(configuration)
        self.namespace = namespace or current or "default"
        self._host = urllib.parse.urlsplit(configuration.host).netloc
        self._core: Any = library.client.CoreV1Api(client)
        self._custom: Any = library.client.CustomObjectsApi(client)

    def submit(self, workload: dict[str, Any], service: dict[str, Any]) -> None:
        """Creates a job with its Service, which goes when the job does.

        Raises:
          UserError: the cluster refuses one of them; then neither is left.
          LostService: the cluster does not answer.
        """
        kind, name = workload["kind"], workload["metadata"]["name"]
        with self._asking(f"create {kind} {name}"):
            group, version, plural = _KINDS[kind]
            made = self._custom.create_namespaced_custom_object(
                group, version, self.namespace, plural, workload, _request_timeout=_TIMES
            )
        owner = {"apiVersion": workload["apiVersion"], "kind": kind, "name": name, "uid": made["metadata"]["uid"]}
        owned = service | {"metadata": {**service["metadata"], "ownerReferences": [owner]}}
        try:
            with self._asking(f"create Service {name}"):
                self._core.create_namespaced_service(self.namespace, owned, _request_timeout=_TIMES)
        except BaseException:
            with contextlib.suppress(UserError, LostService):
                self.delete(workload)
            raise

    def get(self, name: str) -> dict[str, Any]:
        """A job of launch's.

        Raises:
          NotFound: there is none of the name.
          UserError: it may not be read.
          LostService: the cluster does not answer.
        """
        for kind, (group, version, plural) in _KINDS.items():
            with self._asking_for_one_of_two(kind), self._asking(f"get {kind} {name}"):
                found = self._custom.get_namespaced_custom_object(
                    group, version, self.namespace, plural, name, _request_timeout=_TIMES
                )
                if found["metadata"].get("labels", {}).get(NAME_LABEL) == APP:
                    return {"kind": kind, **found}
        raise NotFound(
            f"there is no job {name} in the namespace {self.namespace}: python -m launch list --target=kubernetes shows them"
        )

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of launch's in the namespace, by name.

        Raises:
          UserError: they may not be read.
          LostService: the cluster does not answer.
        """
        jobs: list[dict[str, Any]] = []
        for kind, (group, version, plural) in _KINDS.items():
            with self._asking_for_one_of_two(kind), self._asking(f"list {kind}s"):
                found = self._custom.list_namespaced_custom_object(
                    group, version, self.namespace, plural, label_selector=f"{NAME_LABEL}={APP}", _request_timeout=_TIMES
                )
                # A JobSet's child has labels of its own, and no name of launch's.
                jobs += [{"kind": kind, **each} for each in found["items"]]
        return sorted(jobs, key=lambda job: job["metadata"]["name"])

    def delete(self, workload: dict[str, Any]) -> None:
        """Deletes a job, once its pods have ended in good order.

        Raises:
          UserError: it is gone, or may not be deleted.
          LostService: the cluster does not answer.
        """
        kind, name = workload["kind"], workload["metadata"]["name"]
        group, version, plural = _KINDS[kind]
        with self._asking(f"delete {kind} {name}"):
            self._custom.delete_namespaced_custom_object(
                group, version, self.namespace, plural, name, propagation_policy="Foreground", _request_timeout=_TIMES
            )

    def pods(self, name: str) -> list["Pod"]:
        """The pods of a job, the oldest first.

        Raises:
          UserError: they may not be read.
          LostService: the cluster does not answer.
        """
        with self._asking("list pods"):
            # As JSON, because the client's own types refuse what a newer cluster says.
            response = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{INSTANCE_LABEL}={name}", _preload_content=False, _request_timeout=_TIMES
            )
            found = json.loads(response.data)["items"]
        return sorted(map(_pod, found), key=lambda pod: (pod.created, pod.index))

    @contextlib.contextmanager
    def log(self, pod: str, *, follow: bool) -> Iterator[Iterator[bytes]]:
        """The log of a pod's worker in pieces, each line with its time before it.

        Args:
          pod: its name.
          follow: whether to wait for what is still to come.

        Raises:
          NotFound: the pod is gone.
          NotReady: it has not begun.
          UserError: its log may not be read.
          LostService: the cluster does not answer, or no longer.
        """
        with self._asking(f"read the log of pod {pod}"):
            try:
                response = self._core.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    container=CONTAINER,
                    follow=follow,
                    timestamps=True,
                    _preload_content=False,
                    _request_timeout=(_TIMES[0], _LOG_SILENCE),
                )
            except self._refused as error:
                if error.status == 400:
                    raise NotReady from None
                raise
            try:
                yield response.stream(decode_content=True)
            finally:
                response.close()

    @contextlib.contextmanager
    def _asking_for_one_of_two(self, kind: str) -> Iterator[None]:
        # A cluster without JobSets knows no such place, and does not even say that to those who have no right to it.
        with contextlib.suppress(NotFound, *([Forbidden] if kind == "JobSet" else [])):
            yield

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the client's errors into those of a user."""
        try:
            yield
        except self._errors as error:
            status = getattr(error, "status", None)
            if not isinstance(status, int) or status == 0:
                raise LostService(
                    f"the cluster at {self._host} does not answer ({_reason(error)}): is it the right context?"
                ) from None
            said = _message(error)
            if status == 404:
                raise NotFound(
                    f"cannot {what}: {said}: check the namespace {self.namespace}, and for a JobSet its controller"
                ) from None
            if status == 401:
                raise UserError(f"cannot {what}: the cluster at {self._host} does not know you ({said}): log in again") from None
            if status == 403:
                raise Forbidden(
                    f"cannot {what}: not allowed in the namespace {self.namespace} ({said}): ask for a role that allows it"
                ) from None
            if status == 409:
                raise UserError(f"cannot {what}: the name is taken ({said}): cancel that job, or give another --name") from None
            if status == 429 or status >= 500:
                raise LostService(f"cannot {what}: the cluster answers {status} ({said}): try again") from None
            raise UserError(f"cannot {what}: the cluster refuses it ({status}: {said}): correct it") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod of a worker.

    Attributes:
      name: its own.
      uid: no other pod's, ever.
      index: the worker's.
      created: when, as text that sorts.
      phase: Pending, Running, Succeeded, Failed or Unknown.
      exit_code: the worker's; None while it has none.
      waits_for: why it has not begun; "" where that is not known.
    """

    name: str
    uid: str
    index: int
    created: str
    phase: str
    exit_code: int | None
    waits_for: str

    @property
    def has_ended(self) -> bool:
        """Whether it will never run again."""
        return self.phase in ("Succeeded", "Failed")


def _pod(found: dict[str, Any]) -> Pod:
    metadata, status = found["metadata"], found.get("status", {})
    marks = (metadata.get("labels") or {}) | (metadata.get("annotations") or {})
    states = [each.get("state") or {} for each in status.get("containerStatuses") or [] if each["name"] == CONTAINER]
    state = states[0] if states else {}
    scheduled = [each for each in status.get("conditions") or [] if each["type"] == "PodScheduled" and each["status"] != "True"]
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        index=int(marks.get("batch.kubernetes.io/job-completion-index", 0)),
        created=metadata["creationTimestamp"],
        phase=status.get("phase", "Unknown"),
        exit_code=state.get("terminated", {}).get("exitCode"),
        waits_for=state.get("waiting", {}).get("reason") or (scheduled[0].get("message", "") if scheduled else ""),
    )


def _configure(library: Any, configuration: Any) -> str | None:
    """Fills a configuration in from kubectl's, or inside a cluster from the pod's; returns the namespace that it names."""
    config = library.config
    try:
        config.load_kube_config(client_configuration=configuration)
        return config.list_kube_config_contexts()[1]["context"].get("namespace")
    except config.ConfigException as error:
        with contextlib.suppress(config.ConfigException):
            config.load_incluster_config(client_configuration=configuration)
            return None
        raise UserError(
            f"no Kubernetes cluster is configured ({error}): gcloud container clusters get-credentials CLUSTER, or set KUBECONFIG"
        ) from None
    except Exception as error:  # A file that is no configuration ends in whatever its reader stumbles over.
        raise UserError(f"kubectl's configuration cannot be read ({error!r}): kubectl config view says what is wrong") from None


def _reason(error: Exception) -> str:
    """The innermost reason of a failed connection, without the addresses of Python objects."""
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"<[^>]*>:? ?|\w+\([^()]*\): ?", "", text).strip() or type(error).__name__


def _message(error: Any) -> str:
    """What the API says of an error, in its own words."""
    body = error.body or ""
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(body).get("message") or error.reason
    return str(body)[:200] or str(error.reason)
