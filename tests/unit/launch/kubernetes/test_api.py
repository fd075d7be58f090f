"""The requests to a cluster, with the official client, and what its errors become."""

import http.server
import re
import sys
import types
import urllib.parse

import kubernetes
import pytest
from kubernetes.client import ApiException
from kubernetes.config import kube_config

from launch.job import Job
from launch.kubernetes import spec
from launch.kubernetes.api import Api, Forbidden, NotFound, NotReady, _pod
from tests.fakes.kubernetes import server
from tests.fakes.kubernetes.kubeconfig import kubeconfig
from tests.fakes.kubernetes.server import Cluster, Refused
from tests.support.web import serving
from trainer.errors import LostService, UserError

AWAY = Refused(503, "ServiceUnavailable", "etcd is away")
FORBIDDEN = Refused(403, "Forbidden", "you may not")


@pytest.fixture
def cluster(monkeypatch):
    # Slow, and done in test_spec.py for the same objects.
    monkeypatch.setattr(server.kubernetes_validate, "validate", lambda *_, **__: None)
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Writes kubectl's configuration for a server."""

    def configure(server, **context):
        (tmp_path / "config").write_text(kubeconfig(server, **context))

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    return configure


@pytest.fixture
def api(cluster, configure):
    configure(cluster.url)
    return Api(None)


def specify(name, **fields):
    arguments = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")
    return spec.specify(Job(**({"arguments": arguments, "image": "i", "name": "film"} | fields)), name=name)


def submit(api, name="film-1", **fields):
    workload, service = specify(name, **fields)
    api.submit(workload, service)
    return workload


class Recorder:
    """Stands for a client of the API: keeps the requests, and answers them all alike."""

    def __init__(self, answer):
        self.requests = []
        self._answer = answer

    def __getattr__(self, name):
        def request(*arguments, **options):
            self.requests.append((name, arguments, options))
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer

        return request


def answered(api, answer):
    """Gives an Api a client that answers all requests alike."""
    recorder = Recorder(answer)
    api._core = api._custom = recorder
    return recorder


def test_a_job_owns_its_service(api, cluster):
    submit(api, workers=2)
    (job,), (service,) = cluster.objects("jobs"), cluster.objects("services")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "film-1", "uid": job["metadata"]["uid"]}
    assert service["metadata"]["ownerReferences"] == [owner]
    assert service["metadata"]["labels"] == job["metadata"]["labels"]
    submit(api, "film-2", jobset=True)
    assert cluster.objects("services")[1]["metadata"]["ownerReferences"][0]["kind"] == "JobSet"


def test_a_job_without_its_service_is_deleted(api, cluster):
    cluster.refusals["POST services"] = FORBIDDEN
    with pytest.raises(UserError, match="cannot create Service film-1: you lack the permission"):
        submit(api)
    assert cluster.objects("jobs") == []


@pytest.mark.parametrize("refusal", [AWAY, FORBIDDEN])
def test_the_first_error_is_told_if_the_job_cannot_be_deleted_either(api, cluster, refusal):
    cluster.refusals |= {"POST services": FORBIDDEN, "DELETE jobs": refusal}
    with pytest.raises(UserError, match="cannot create Service film-1"):
        submit(api)


def test_a_job_of_launch_is_found_whatever_its_kind(api, cluster):
    submit(api)
    submit(api, "film-2", jobset=True)
    assert api.get("film-1")["kind"] == "Job"
    assert api.get("film-2")["kind"] == "JobSet"
    assert [(job["kind"], job["metadata"]["name"]) for job in api.jobs()] == [("Job", "film-1"), ("JobSet", "film-2")]


def test_jobs_are_sorted_by_name(api):
    for name, jobset in (("b", False), ("c", False), ("a", True)):
        submit(api, name, jobset=jobset)
    assert [job["metadata"]["name"] for job in api.jobs()] == ["a", "b", "c"]


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/name": "other"}])
def test_a_job_of_another_program_does_not_exist(api, cluster, labels):
    workload, _ = specify("other")
    workload["metadata"] = {"name": "other"} | ({} if labels is None else {"labels": labels})
    cluster.create("jobs", "default", workload)
    with pytest.raises(NotFound, match=r"job other does not exist in the namespace default: choose one of .* --namespace=default"):
        api.get("other")
    assert api.jobs() == []


def test_a_cluster_without_jobsets_or_permission_for_them_has_jobs(api, cluster):
    submit(api)
    cluster.has_jobsets = False
    assert (len(api.jobs()), api.get("film-1")["kind"]) == (1, "Job")
    cluster.has_jobsets = True
    cluster.refusals["GET jobsets"] = FORBIDDEN
    assert len(api.jobs()) == 1
    with pytest.raises(NotFound):
        api.get("film-2")
    cluster.refusals["GET jobsets"] = AWAY
    with pytest.raises(LostService):
        api.jobs()


def test_a_cluster_without_permission_for_jobs_is_an_error(api, cluster):
    cluster.refusals["GET jobs"] = FORBIDDEN
    with pytest.raises(Forbidden, match=r"cannot list Jobs: you lack the permission in the namespace default .you may not."):
        api.jobs()
    with pytest.raises(Forbidden, match="cannot get Job film-1"):
        api.get("film-1")


def test_a_deleted_job_is_gone(api, cluster):
    workload = submit(api)
    api.delete(workload)
    assert cluster.objects("services") == []
    with pytest.raises(NotFound, match="cannot delete Job film-1"):
        api.delete(workload)


def test_pods_of_a_job_are_listed_with_the_oldest_first(api, cluster):
    submit(api, workers=3)
    submit(api, "film-2")
    job, other = cluster.objects("jobs")
    names = [cluster.add_pod(job, index) for index in (2, 0, 1)]
    cluster.add_pod(other, 0)
    for name, moment in zip(names, ("2026-01-02", "2026-01-02", "2026-01-01"), strict=True):
        cluster.get("pods", "default", name)["metadata"]["creationTimestamp"] = f"{moment}T00:00:00Z"
    assert [pod.index for pod in api.pods("film-1")] == [1, 0, 2]


def test_every_request_has_time_limits(api):
    """A server that does not answer must not hold up the command."""
    metadata = {"metadata": {"uid": "u", "labels": {spec.NAME_LABEL: spec.APP}}, "items": []}
    custom = answered(api, metadata)
    submit(api)
    api.get("film-1")
    api.jobs()
    api.delete(specify("film-1")[0])
    pods = answered(api, types.SimpleNamespace(data=b'{"items": []}'))
    api.pods("film-1")
    logs = answered(api, types.SimpleNamespace(stream=lambda decode_content: [], close=lambda: None))
    with api.log("film-1-0", follow=True):
        pass
    limits = [options["_request_timeout"] for each in (custom, pods, logs) for _, _, options in each.requests]
    assert len(limits) == 8
    assert all(0 < connect <= 10 < answer <= 300 for connect, answer in limits)


def test_a_job_is_deleted_after_its_pods(api):
    requests = answered(api, {}).requests
    api.delete(specify("film-1")[0])
    assert requests[0][2]["propagation_policy"] == "Foreground"


def test_the_log_of_a_pod_is_the_trainers_and_may_be_followed(api, cluster):
    submit(api)
    pod = cluster.add_pod(cluster.objects("jobs")[0], 0)
    cluster.write(pod, "one", "two")
    with api.log(pod, follow=False) as pieces:
        lines = b"".join(pieces).splitlines()
    assert [line.partition(b"Z ")[2] for line in lines] == [b"one", b"two"]
    cluster.end_pod(pod, 0)
    with api.log(pod, follow=True) as pieces:
        assert len(b"".join(pieces).splitlines()) == 2
    requests = answered(api, types.SimpleNamespace(stream=lambda decode_content: [], close=lambda: None)).requests
    for follow in (True, False):
        with api.log(pod, follow=follow):
            pass
    assert [options["follow"] for _, _, options in requests] == [True, False]


def test_a_log_that_is_no_longer_read_is_closed(api):
    closed = []
    answered(api, types.SimpleNamespace(stream=lambda decode_content: iter([b"one"]), close=lambda: closed.append(True)))
    with pytest.raises(ZeroDivisionError), api.log("film-1-0", follow=True):
        raise ZeroDivisionError
    assert closed == [True]


def test_a_pod_that_has_not_started_has_no_log(api, cluster):
    submit(api)
    pod = cluster.add_pod(cluster.objects("jobs")[0], 0, running=False)
    with pytest.raises(NotReady), api.log(pod, follow=True):
        pass
    with pytest.raises(NotFound, match="cannot read the log of pod none"), api.log("none", follow=True):
        pass


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (401, UserError, "cannot list pods: the cluster at 127.0.0.1:{port} rejects your credentials (why): log in again"),
        (403, Forbidden, "cannot list pods: you lack the permission in the namespace default (why): ask for a role that has it"),
        (404, NotFound, "cannot list pods (why): check the namespace default, and for a JobSet that its controller runs"),
        (409, UserError, "cannot list pods: the name is in use (why): cancel that job, or choose another --name"),
        (422, UserError, "cannot list pods: the cluster rejected it (422: why): correct what it names"),
        (499, UserError, "cannot list pods: the cluster rejected it (499: why): correct what it names"),
        (429, LostService, "cannot list pods: the cluster answered 429 (why): try again"),
        (500, LostService, "cannot list pods: the cluster answered 500 (why): try again"),
        (503, LostService, "cannot list pods: the cluster answered 503 (why): try again"),
        (0, LostService, "the cluster at 127.0.0.1:{port} does not answer (why): try again, or check kubectl's current context"),
    ],
)
def test_an_error_says_what_to_do(api, cluster, error, kind, says):
    answered(api, ApiException(status=error, reason="why"))
    with pytest.raises(UserError if kind in (NotFound, Forbidden) else kind) as caught:
        api.pods("film-1")
    port = urllib.parse.urlsplit(cluster.url).port
    assert (type(caught.value), str(caught.value)) == (kind, says.format(port=port))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, "why"),
        ("", "why"),
        ('{"message": "no room"}', "no room"),
        ('{"message": ""}', "why"),
        ("{}", "why"),
        ("[1]", "[1]"),
        ("not JSON " + "x" * 300, "not JSON " + "x" * 191),
    ],
)
def test_an_error_has_the_clusters_own_message(api, body, said):
    error = ApiException(status=422, reason="why")
    error.body = body
    answered(api, error)
    with pytest.raises(UserError, match=re.escape(f"(422: {said}): correct")):
        api.pods("film-1")


def test_a_server_that_does_not_answer_is_asked_twice_and_named(configure, caplog):
    connections = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self):
            connections.append(self.client_address)

    with serving(Handler) as silent:
        configure(f"http://127.0.0.1:{silent.server_port}")
        with pytest.raises(LostService) as caught:
            Api(None).jobs()
    assert len(connections) == 2
    assert f"the cluster at 127.0.0.1:{silent.server_port} does not answer (" in str(caught.value)
    assert "object at" not in str(caught.value)
    assert caplog.records == []  # The client would log each try.


def test_the_namespace_is_that_of_the_flag_or_the_context_or_default(configure):
    configure("http://127.0.0.1:9")
    assert Api(None).namespace == "default"
    configure("http://127.0.0.1:9", namespace="films")
    assert Api(None).namespace == "films"
    assert Api("other").namespace == "other"


def test_a_configuration_that_cannot_be_read_is_named(configure, tmp_path):
    (tmp_path / "config").write_text("a: [")
    with pytest.raises(UserError, match=r"kubectl's configuration cannot be read .*: correct what kubectl config view reports"):
        Api(None)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(
        UserError, match="--target=kubernetes needs kubernetes, which is not installed: pip install 'poster-trainer"
    ):
        Api(None)


def test_inside_a_cluster_the_pods_own_configuration_is_used(configure, monkeypatch):
    def load(client_configuration):
        client_configuration.host = "https://10.0.0.1:443"

    with pytest.raises(UserError, match=r"no Kubernetes cluster is configured .*: run gcloud container clusters get-credentials"):
        Api(None)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", load)
    api = Api(None)
    assert (api.namespace, api._host) == ("default", "10.0.0.1:443")


METADATA = {"name": "film-1-0", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}


@pytest.mark.parametrize(
    ("found", "index", "phase", "exit_code", "waits_for"),
    [
        ({}, 0, "Unknown", None, ""),
        ({"metadata": {"labels": None, "annotations": {"batch.kubernetes.io/job-completion-index": "3"}}}, 3, "Unknown", None, ""),
        ({"metadata": {"labels": {"batch.kubernetes.io/job-completion-index": "2"}}}, 2, "Unknown", None, ""),
        ({"status": {"phase": "Pending", "conditions": [UNSCHEDULED]}}, 0, "Pending", None, "0/3 nodes are available"),
        ({"status": {"phase": "Pending", "conditions": [UNSCHEDULED | {"status": "True"}]}}, 0, "Pending", None, ""),
        ({"status": {"phase": "Pending", "conditions": [UNSCHEDULED | {"type": "Ready"}]}}, 0, "Pending", None, ""),
        ({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}}, 0, "Pending", None, ""),
        ({"status": {"conditions": None, "containerStatuses": None}}, 0, "Unknown", None, ""),
        ({"status": {"containerStatuses": [{"name": "trainer"}]}}, 0, "Unknown", None, ""),
        (
            {"status": {"containerStatuses": [{"name": "sidecar", "state": {"terminated": {"exitCode": 1}}}]}},
            0,
            "Unknown",
            None,
            "",
        ),
        (
            {
                "status": {
                    "phase": "Failed",
                    "containerStatuses": [
                        {"name": "sidecar", "state": {"terminated": {"exitCode": 1}}},
                        {"name": "trainer", "state": {"terminated": {"exitCode": 75}}},
                    ],
                }
            },
            0,
            "Failed",
            75,
            "",
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "conditions": [UNSCHEDULED],
                    "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
                }
            },
            0,
            "Pending",
            None,
            "ImagePullBackOff",
        ),
    ],
)
def test_a_pod_is_read_whatever_it_leaves_out(found, index, phase, exit_code, waits_for):
    pod = _pod(found | {"metadata": METADATA | found.get("metadata", {})})
    assert (pod.index, pod.phase, pod.exit_code, pod.waits_for) == (index, phase, exit_code, waits_for)
    assert (pod.name, pod.uid, pod.created) == ("film-1-0", "u", "2026-01-01T00:00:00Z")
    assert pod.has_ended == (phase in ("Succeeded", "Failed"))
