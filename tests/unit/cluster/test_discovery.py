"""What the environment says about a job's workers, as the platforms write it."""

import json
import os
import subprocess
import sys

import pytest

from trainer.cluster.discovery import Cluster, discover, host_and_port
from trainer.errors import UserError

VERTEX = {
    "chief": ["training-workerpool0-ab-0:2222"],
    "ps": ["training-workerpool2-ab-0:2222"],
    "worker": ["training-workerpool1-ab-0:2222", "training-workerpool1-ab-1:2222"],
}
VERTEX_WORKERS = ("training-workerpool0-ab-0:2222", "training-workerpool1-ab-0:2222", "training-workerpool1-ab-1:2222")


def vertex(kind, index):
    # "job" is the CustomJobSpec, with whatever the user has put into it.
    task = {"cloud": "c0ffee-ml", "index": index, "trial": "1", "type": kind}
    return {"cluster": VERTEX, "environment": "cloud", "job": '{"worker_pool_specs": []}', "task": task}


def kubeflow(kind, index, **replicas):
    cluster = {name: [f"films-{name}-{i}.team.svc:2222" for i in range(count)] for name, count in replicas.items()}
    return {"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"}


def by_hand(*addresses, index=0, kind="worker", **cluster):
    return {"cluster": {"worker": list(addresses), **cluster}, "task": {"type": kind, "index": index}}


def tf_config(value):
    return discover({"TF_CONFIG": value if isinstance(value, str) else json.dumps(value)}, "host")


@pytest.mark.parametrize(
    ("config", "addresses", "index"),
    [
        # Vertex AI: worker pool 0 is the chief, 1 the workers, 2 parameter servers or the reduction server.
        (vertex("chief", 0), VERTEX_WORKERS, 0),
        (vertex("worker", 0), VERTEX_WORKERS, 1),
        (vertex("worker", 1), VERTEX_WORKERS, 2),
        # ... and a job of one replica, in the forms that occur.
        (
            {
                "cluster": {"chief": ["cmle-training-workerpool0-ab-0:2222"]},
                "environment": "cloud",
                "task": {"type": "chief", "index": 0},
            },
            ("cmle-training-workerpool0-ab-0:2222",),
            0,
        ),
        ({"task": {"cloud": "c0ffee-ml", "index": 0, "trial": "3", "type": "chief"}, "environment": "cloud", "job": "{}"}, (), 0),
        # Kubeflow's TFJob, with and without a chief; it lists evaluators too.
        (
            kubeflow("worker", 1, chief=1, worker=2),
            ("films-chief-0.team.svc:2222", "films-worker-0.team.svc:2222", "films-worker-1.team.svc:2222"),
            2,
        ),
        (kubeflow("worker", 1, worker=2), ("films-worker-0.team.svc:2222", "films-worker-1.team.svc:2222"), 1),
        (kubeflow("worker", 0, evaluator=1, ps=1, worker=1), ("films-worker-0.team.svc:2222",), 0),
        (kubeflow("master", 0, worker=1, master=1), ("films-master-0.team.svc:2222", "films-worker-0.team.svc:2222"), 0),
        # SageMaker.
        (
            {
                "cluster": {"master": ["algo-1:2222"], "ps": ["algo-1:2223", "algo-2:2223"], "worker": ["algo-2:2222"]},
                "environment": "cloud",
                "task": {"index": 0, "type": "worker"},
            },
            ("algo-1:2222", "algo-2:2222"),
            1,
        ),
        # By hand, and by writers in Go, whose empty list is null.
        (by_hand("localhost:12345", "localhost:23456", index=1), ("localhost:12345", "localhost:23456"), 1),
        (by_hand("10.0.0.4:2222", "[fd00::1]:2222", chief=None, ps=None), ("10.0.0.4:2222", "[fd00::1]:2222"), 0),
        (by_hand("a:1", ps="whatever", evaluator=[7]), ("a:1",), 0),
        ({}, (), 0),
        ({"cluster": {}}, (), 0),
        ({"cluster": None, "task": None}, (), 0),
        ({"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}, (), 0),
        ({"environment": "cloud"}, (), 0),
    ],
)
def test_tf_config(config, addresses, index):
    assert tf_config(config) == Cluster(addresses, index, "TF_CONFIG")


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        ("{'cluster': {}}", "not valid JSON (Expecting property name"),
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
        ("[]", "must be a JSON object with cluster and task, got []"),
        ("null", "must be a JSON object"),
        ('"worker"', 'got "worker"'),
        ({"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}, 'cluster must be a JSON object, got ["a:1"]'),
        ({"cluster": {"worker": ["a:1"]}, "task": "worker"}, 'task must be a JSON object, got "worker"'),
        ({"cluster": {"worker": ["a:1", "b:1"]}}, "no task"),
        ({"cluster": {"worker": ["a:1"]}, "task": {}}, "no task"),
        ({"cluster": {"worker": ["a:1"]}, "task": {"index": 0}}, "task type must be one of chief, master, worker, got null"),
        (by_hand("a:1", kind="Worker"), 'task type must be one of chief, master, worker, got "Worker"'),
        (by_hand("a:1", kind="workerpool0"), '"workerpool0"'),
        (by_hand("a:1", kind=["worker"]), 'worker, got ["worker"]'),
        pytest.param(by_hand("a:1", kind="x" * 500), "xx …", id="long"),
        (by_hand("a:1", kind="chief"), "no address for the task type chief"),
        (by_hand("a:1", kind="chief", master=["b:1"]), "no address for the task type chief"),
        (by_hand("a:1", index="0"), 'task index must be a whole number, counted from 0 among workers, got "0"'),
        (by_hand("a:1", index=None), "among workers, got null"),
        (by_hand("a:1", index=True), "among workers, got true"),
        (by_hand("a:1", index=0.0), "among workers, got 0.0"),
        (by_hand("a:1", "b:1", index=2), "task index must be from 0 to 1, because cluster has 2 address(es) for worker, got 2"),
        (by_hand("a:1", "b:1", index=-1), "got -1"),
        ({"task": {"type": "worker", "index": 1}}, "task index 1 but no cluster"),
        (by_hand("a:1", chief=["b:1", "c:1"]), "2 addresses for chief"),
        (by_hand("a:1", master=["b:1", "c:1"]), "2 addresses for master"),
        (by_hand("a:1", chief=["b:1"], master=["c:1"]), "both a chief and a master"),
        (by_hand("a:1", workerpool1=["b:1"]), 'unknown role "workerpool1"'),
        (by_hand(chief="a:1"), 'chief must be a list such as ["host:port"], got "a:1"'),
        ({"cluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker", "index": 0}}, "must be a list"),
        (by_hand("a:1", "b"), 'address "b" of a worker is not host:port'),
        (by_hand("a:1", 7), "address 7 of a worker"),
        (by_hand("a:1", "grpc://b:1"), '"grpc://b:1"'),
        (by_hand("a:1", "a:1"), "a:1 occurs twice"),
        (by_hand("a:1", chief=["a:1"]), "a:1 occurs twice"),
        ({"sparseCluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker", "index": 0}}, "sparseCluster"),
        (
            vertex("ps", 0),
            "gives this process the role ps, which training does not use: leave that role out (on Vertex AI: worker pool 2)",
        ),
        (vertex("evaluator", 0), "role evaluator, which training does not use: leave that role out (on Vertex AI: worker pool 3)"),
        (kubeflow("evaluator", 0, evaluator=1, worker=2), "evaluator"),
        ({"task": {"type": "evaluator", "index": 0}}, "evaluator"),
    ],
)
def test_a_wrong_tf_config_is_refused_in_one_line(config, fragment):
    with pytest.raises(UserError) as caught:
        tf_config(config)
    line = str(caught.value)
    assert fragment in line
    assert line.startswith("TF_CONFIG")
    assert "\n" not in line
    assert len(line) < 300


INDEXED = {"JOB_COMPLETION_INDEX": "1", "POSTER_WORKERS": "3", "POSTER_SERVICE": "films", "POSTER_PORT": "5000"}
ALONE = Cluster((), 0, "nothing describes a cluster")


@pytest.mark.parametrize(
    ("changes", "hostname", "expected"),
    [
        ({}, "films-1", Cluster(("films-0.films:5000", "films-1.films:5000", "films-2.films:5000"), 1, "Indexed Job")),
        # A JobSet's pods, whose subdomain is the JobSet's name; the port left to its default.
        (
            {"POSTER_SERVICE": "set", "POSTER_PORT": ""},
            "set-workers-0-1",
            Cluster(("set-workers-0-0.set:2222", "set-workers-0-1.set:2222", "set-workers-0-2.set:2222"), 1, "Indexed Job"),
        ),
        # setHostnameAsFQDN, a Service's full name, and indices of two digits.
        (
            {"JOB_COMPLETION_INDEX": "11", "POSTER_WORKERS": "12", "POSTER_SERVICE": "s.ns.svc.cluster.local"},
            "films-1-11.s.ns.svc.cluster.local",
            Cluster(tuple(f"films-1-{i}.s.ns.svc.cluster.local:5000" for i in range(12)), 11, "Indexed Job"),
        ),
        # An index that the base ends in, too.
        ({"POSTER_WORKERS": "2"}, "films-1-1", Cluster(("films-1-0.films:5000", "films-1-1.films:5000"), 1, "Indexed Job")),
        # The longest name that can be looked up.
        (
            {"POSTER_WORKERS": "2"},
            "f" * 61 + "-1",
            Cluster(tuple(f"{'f' * 61}-{i}.films:5000" for i in range(2)), 1, "Indexed Job"),
        ),
        ({"POSTER_WORKERS": "1", "JOB_COMPLETION_INDEX": "0"}, "anything", ALONE),
        ({"POSTER_WORKERS": "1", "JOB_COMPLETION_INDEX": ""}, "anything", ALONE),
        ({"POSTER_WORKERS": " "}, "anything", ALONE),
        (
            {"TF_CONFIG": " \n"},
            "films-1",
            Cluster(("films-0.films:5000", "films-1.films:5000", "films-2.films:5000"), 1, "Indexed Job"),
        ),
        ({"TF_CONFIG": json.dumps(by_hand("a:1", "b:1"))}, "films-1", Cluster(("a:1", "b:1"), 0, "TF_CONFIG")),
    ],
)
def test_an_indexed_job(changes, hostname, expected):
    assert discover(INDEXED | changes, hostname) == expected


@pytest.mark.parametrize(
    ("changes", "hostname", "fragment"),
    [
        ({"POSTER_WORKERS": "two"}, "films-1", "POSTER_WORKERS must be a whole number from 1 to 100000, got 'two'"),
        ({"POSTER_WORKERS": "0"}, "films-1", "got '0'"),
        ({"POSTER_WORKERS": "-2"}, "films-1", "got '-2'"),
        pytest.param({"POSTER_WORKERS": "9" * 5000}, "films-1", "POSTER_WORKERS", id="long"),
        ({"POSTER_WORKERS": "2\n3"}, "films-1", r"got '2\n3'"),
        (
            {"JOB_COMPLETION_INDEX": "first"},
            "films-1",
            "JOB_COMPLETION_INDEX must be a whole number from 0 to 1000000000, got 'first'",
        ),
        ({"JOB_COMPLETION_INDEX": "3"}, "films-3", "JOB_COMPLETION_INDEX=3 is not below POSTER_WORKERS=3"),
        ({"JOB_COMPLETION_INDEX": "1", "POSTER_WORKERS": "1"}, "films-1", "JOB_COMPLETION_INDEX=1 is not below POSTER_WORKERS=1"),
        ({"JOB_COMPLETION_INDEX": ""}, "films-1", "POSTER_WORKERS=3, but JOB_COMPLETION_INDEX is not set"),
        ({"POSTER_SERVICE": ""}, "films-1", "POSTER_SERVICE is not set"),
        ({"POSTER_SERVICE": "http://films"}, "films-1", "POSTER_SERVICE='http://films'"),
        ({"POSTER_SERVICE": "films..ns"}, "films-1", "POSTER_SERVICE"),
        ({"POSTER_SERVICE": "s" * 64}, "films-1", "too long for a host name"),
        ({"POSTER_PORT": "0"}, "films-1", "POSTER_PORT must be a whole number from 1 to 65535, got '0'"),
        ({"POSTER_PORT": "65536"}, "films-1", "POSTER_PORT"),
        ({"POSTER_PORT": "http"}, "films-1", "POSTER_PORT"),
        ({}, "films-2", "host name 'films-2' does not end in -1"),
        ({}, "films-11", "host name 'films-11'"),
        ({}, "-1", "host name '-1'"),
        ({}, "gke-node", "hostNetwork"),
        ({}, "", "host name ''"),
        ({"POSTER_WORKERS": "11"}, "f" * 61 + "-1", "has 64 characters"),
    ],
)
def test_a_wrong_indexed_job_is_refused_in_one_line(changes, hostname, fragment):
    with pytest.raises(UserError) as caught:
        discover(INDEXED | changes, hostname)
    line = str(caught.value)
    assert fragment in line
    assert "\n" not in line
    assert len(line) < 400


def test_without_a_description_a_process_is_the_only_worker_and_the_chief():
    alone = discover({})
    assert (alone, alone.workers, alone.is_chief) == (ALONE, 1, True)
    # An Indexed Job whose pods do not work together.
    assert discover({"JOB_COMPLETION_INDEX": "4"}) == ALONE
    worker = tf_config(vertex("worker", 0))
    assert (worker.workers, worker.is_chief) == (3, False)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a:1", ("a", 1)),
        ("films-0.films.ns.svc.cluster.local.:65535", ("films-0.films.ns.svc.cluster.local.", 65535)),
        ("my_host:2222", ("my_host", 2222)),
        ("127.0.0.1:2222", ("127.0.0.1", 2222)),
        ("[::1]:2222", ("::1", 2222)),
        ("l" * 63 + ":1", ("l" * 63, 1)),
        (f"{'.'.join(['l' * 63] * 3)}.{'l' * 61}:1", (f"{'.'.join(['l' * 63] * 3)}.{'l' * 61}", 1)),  # 253 characters
    ],
)
def test_an_address_is_split_into_host_and_port(address, expected):
    assert host_and_port(address) == expected


@pytest.mark.parametrize(
    ("address", "fragment"),
    [
        *((address, "not host:port") for address in ("", "a", ":1", "a:", "a:b", "a:-1", "a:+1", "a: 1", "a:1 ", "a:0", "a:65536")),
        *((address, "not host:port") for address in ("a b:1", "a/b:1", "a..b:1", ".a:1", "[a]:1", "[]:1", "[::1:1", "ä:1", "a:¹")),
        ("::1:2222", "brackets"),
        ("l" * 64 + ":1", "too long"),
        (f"{'.'.join(['l' * 63] * 3)}.{'l' * 62}:1", "too long"),  # 254 characters
    ],
)
def test_an_address_that_is_not_host_and_port_is_refused(address, fragment):
    with pytest.raises(ValueError, match=fragment):
        host_and_port(address)


def test_a_value_of_ninety_characters_is_shown_whole_and_a_longer_one_shortened():
    for length, shown in ((88, f'"{"x" * 88}"'), (89, f'"{"x" * 87} …')):
        with pytest.raises(UserError) as caught:
            tf_config(by_hand("a:1", kind="x" * length))
        assert str(caught.value).endswith(f"got {shown}")


@pytest.mark.parametrize("port", ["1", "65535"])
def test_an_indexed_job_may_use_any_port(port):
    assert discover(INDEXED | {"POSTER_PORT": port}, "films-1").addresses[0] == f"films-0.films:{port}"


def test_an_indexed_job_has_at_most_a_hundred_thousand_workers():
    assert discover(INDEXED | {"POSTER_WORKERS": "100000"}, "films-1").workers == 100_000
    with pytest.raises(UserError, match="from 1 to 100000, got '100001'"):
        discover(INDEXED | {"POSTER_WORKERS": "100001"}, "films-1")


def test_the_environment_and_the_host_name_are_the_systems_own(monkeypatch):
    code = "from trainer.cluster.discovery import discover; print(discover().addresses[1])"
    program = f"import socket; socket.gethostname = lambda: 'films-1'\n{code}"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | INDEXED, check=True, capture_output=True, text=True)
    assert done.stdout == "films-1.films:5000\n"


def test_discovery_and_rendezvous_import_no_tensorflow():
    heavy = {"tensorflow", "numpy", "absl"}
    code = f"import sys; from trainer.cluster import discovery, rendezvous; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
