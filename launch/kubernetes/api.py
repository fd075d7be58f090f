"""The requests of launch to a Kubernetes cluster, through the official client, with errors that tell the user what to do."""

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

_TIMEOUTS = (10.0, 60.0)  # Seconds to connect, and to wait for an answer.
_LOG_SILENCE = 300.0  # Seconds without output after which a log is requested again.

# The group, version and plural of each kind of workload that launch creates.
_KINDS = {"Job": ("batch", "v1", "jobs"), "JobSet": ("jobset.x-k8s.io", "v1alpha2", "jobsets")}


class NotFound(UserError):
    """The object does not exist in the cluster."""


class Forbidden(UserError):
    """The user lacks the permission."""


class NotReady(Exception):
    """The container has no log yet."""


class Api:
    """The API of the cluster of kubectl's current context.

    Attributes:
      namespace: the namespace of the jobs.
    """

    def __init__(self, namespace: str | None) -> None:
        """Reads kubectl's configuration; does not connect yet.

        Args:
          namespace: the namespace of the jobs; None: the current context's.

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
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # It logs every retry. Creating a Configuration resets the level.
        client = library.client.ApiClient(configuration)
        self.namespace = namespace or current or "default"
        self._host = urllib.parse.urlsplit(configuration.host).netloc
        self._core: Any = library.client.CoreV1Api(client)
        self._custom: Any = library.client.CustomObjectsApi(client)

    def submit(self, workload: dict[str, Any], service: dict[str, Any]) -> None:
        """Creates a job and its Service, which Kubernetes deletes with the job.

        Args:
          workload: the Job or JobSet.
          service: the Service.

        Raises:
          UserError: the cluster refuses one of them; neither exists afterwards.
          LostService: the cluster does not answer.
        """
        kind, name = workload["kind"], workload["metadata"]["name"]
        with self._asking(f"create {kind} {name}"):
            group, version, plural = _KINDS[kind]
            made = self._custom.create_namespaced_custom_object(
                group, version, self.namespace, plural, workload, _request_timeout=_TIMEOUTS
            )
        owner = {"apiVersion": workload["apiVersion"], "kind": kind, "name": name, "uid": made["metadata"]["uid"]}
        owned = service | {"metadata": {**service["metadata"], "ownerReferences": [owner]}}
        try:
            with self._asking(f"create Service {name}"):
                self._core.create_namespaced_service(self.namespace, owned, _request_timeout=_TIMEOUTS)
        except BaseException:
            with contextlib.suppress(UserError, LostService):
                self.delete(workload)
            raise

    def get(self, name: str) -> dict[str, Any]:
        """Returns the Job or JobSet of a job that launch created.

        Args:
          name: the job's name.

        Raises:
          NotFound: no such job exists.
          UserError: the cluster refuses.
          LostService: the cluster does not answer.
        """
        for kind, (group, version, plural) in _KINDS.items():
            with self._asking_for_one_of_two(kind), self._asking(f"get {kind} {name}"):
                found = self._custom.get_namespaced_custom_object(
                    group, version, self.namespace, plural, name, _request_timeout=_TIMEOUTS
                )
                if found["metadata"].get("labels", {}).get(NAME_LABEL) == APP:
                    return {"kind": kind, **found}
        raise NotFound(
            f"job {name} does not exist in the namespace {self.namespace}: choose one of python -m launch list --target=kubernetes "
            f"--namespace={self.namespace}"
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Returns the Jobs and JobSets in the namespace that launch created, sorted by name.

        Raises:
          UserError: the cluster refuses.
          LostService: the cluster does not answer.
        """
        jobs: list[dict[str, Any]] = []
        for kind, (group, version, plural) in _KINDS.items():
            with self._asking_for_one_of_two(kind), self._asking(f"list {kind}s"):
                found = self._custom.list_namespaced_custom_object(
                    group, version, self.namespace, plural, label_selector=f"{NAME_LABEL}={APP}", _request_timeout=_TIMEOUTS
                )
                # The child Job of a JobSet lacks this label, so that it is not listed.
                jobs += [{"kind": kind, **each} for each in found["items"]]
        return sorted(jobs, key=lambda job: job["metadata"]["name"])

    def delete(self, workload: dict[str, Any]) -> None:
        """Deletes a job after its pods have ended; each pod gets SIGTERM and its grace period.

        Args:
          workload: the Job or JobSet.

        Raises:
          UserError: the job no longer exists, or the cluster refuses.
          LostService: the cluster does not answer.
        """
        kind, name = workload["kind"], workload["metadata"]["name"]
        group, version, plural = _KINDS[kind]
        with self._asking(f"delete {kind} {name}"):
            self._custom.delete_namespaced_custom_object(
                group, version, self.namespace, plural, name, propagation_policy="Foreground", _request_timeout=_TIMEOUTS
            )

    def pods(self, name: str) -> list["Pod"]:
        """Returns the pods of a job, the oldest first.

        Args:
          name: the job's name.

        Raises:
          UserError: the cluster refuses.
          LostService: the cluster does not answer.
        """
        with self._asking("list pods"):
            # Parsed from JSON, because the client's own types reject values that a newer cluster returns.
            response = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{INSTANCE_LABEL}={name}", _preload_content=False, _request_timeout=_TIMEOUTS
            )
            found = json.loads(response.data)["items"]
        return sorted(map(_pod, found), key=lambda pod: (pod.created, pod.index))

    @contextlib.contextmanager
    def log(self, pod: str, *, follow: bool) -> Iterator[Iterator[bytes]]:
        """Opens the log of a pod's worker: an iterator over its bytes, cut anywhere; each line begins with a time stamp.

        Args:
          pod: the pod's name.
          follow: whether to wait for new lines until the worker ends.

        Raises:
          NotFound: the pod no longer exists.
          NotReady: the worker has not started.
          UserError: the cluster refuses.
          LostService: the cluster does not answer, or the connection broke.
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
                    _request_timeout=(_TIMEOUTS[0], _LOG_SILENCE),
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
        # A cluster without JobSets answers a request for them with 404, or with 403 to a user without permission for them.
        with contextlib.suppress(NotFound, *([Forbidden] if kind == "JobSet" else [])):
            yield

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns the client's errors into errors for the user.

        Args:
          what: the request, as the error names it after "cannot".
        """
        try:
            yield
        except self._errors as error:
            status = getattr(error, "status", None)
            if not isinstance(status, int) or status == 0:
                raise LostService(
                    f"the cluster at {self._host} does not answer ({_reason(error)}): try again, or check kubectl's current context"
                ) from None
            said = _message(error)
            if status == 404:
                raise NotFound(
                    f"cannot {what} ({said}): check the namespace {self.namespace}, and for a JobSet that its controller runs"
                ) from None
            if status == 401:
                raise UserError(
                    f"cannot {what}: the cluster at {self._host} rejects your credentials ({said}): log in again"
                ) from None
            if status == 403:
                raise Forbidden(
                    f"cannot {what}: you lack the permission in the namespace {self.namespace} ({said}): ask for a role that has it"
                ) from None
            if status == 409:
                raise UserError(f"cannot {what}: the name is in use ({said}): cancel that job, or choose another --name") from None
            if status == 429 or status >= 500:
                raise LostService(f"cannot {what}: the cluster answered {status} ({said}): try again") from None
            raise UserError(f"cannot {what}: the cluster rejected it ({status}: {said}): correct what it names") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod of a worker.

    Attributes:
      name: the pod's name.
      uid: the pod's identifier, which is never reused.
      index: the worker's index.
      created: when the pod was created, in ISO 8601.
      phase: Pending, Running, Succeeded, Failed or Unknown.
      exit_code: the worker's exit code; None until it has ended.
      waits_for: why the worker has not started, or "".
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
        """Whether the pod has ended for good."""
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
    """Fills in a configuration from kubectl's, or inside a cluster from the pod's; returns the namespace that it names."""
    config = library.config
    try:
        config.load_kube_config(client_configuration=configuration)
        return config.list_kube_config_contexts()[1]["context"].get("namespace")
    except config.ConfigException as error:
        with contextlib.suppress(config.ConfigException):
            config.load_incluster_config(client_configuration=configuration)
            return None
        raise UserError(
            f"no Kubernetes cluster is configured ({error}): run gcloud container clusters get-credentials CLUSTER, or set "
            "KUBECONFIG"
        ) from None
    except Exception as error:  # The client raises many types for a malformed file.
        raise UserError(f"kubectl's configuration cannot be read ({error!r}): correct what kubectl config view reports") from None


def _reason(error: Exception) -> str:
    """Returns the innermost reason of a failed connection, without the memory addresses of Python objects."""
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"<[^>]*>:? ?|\w+\([^()]*\): ?", "", text).strip() or type(error).__name__


def _message(error: Any) -> str:
    """Returns the API's own message for an error."""
    body = error.body or ""
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(body).get("message") or error.reason
    return str(body)[:200] or str(error.reason)
