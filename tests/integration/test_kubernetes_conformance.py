"""Runs only the YAML that launch renders for Kubernetes, as a cluster would, and checks that it works as intended.

Pods are processes with their own file systems, networks, host names and users, under `tests/fakes/kubernetes/node.py`, which shares
no code with launch. Back-offs are shorter than in Kubernetes. POSTER_LONG=1 adds the JobSet, and an eviction in the middle of an
epoch.
"""

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kubernetes import expander
from tests.fakes.kubernetes import node as kubernetes_node
from tests.fakes.kubernetes.expander import Manifest
from tests.support import namespaces
from tests.support.commands import REPOSITORY, run
from tests.support.jobs import assert_equal

# The flags of the job in `pair_dir`.
OPTIONS = (
    "--model=cnn",
    "--augment=strong",
    "--schedule=cosine",
    "--epochs=2",
    "--batch_size=12",
    "--backup_steps=3",
    "--learning_rate=0.003",
)
STEPS = 28
USER = 1000

PATHS = ("--data_dir=/gcs/films/dataset", "--job_dir=/gcs/films/jobs/first")

GREETING = '$(HOME) costs $$5,\n  "isn\'t" it?'

LAUNCH = ("--target=kubernetes", "--dry_run", "--name=film", "--image=poster-trainer", "--workers=2")


def rendered(*options: str, arguments: tuple[str, ...] = (*PATHS, *OPTIONS)) -> Manifest:
    """Returns the manifest that launch prints for a job of two workers."""
    return expander.load(run("launch", *LAUNCH, *options, "--", *arguments).stdout)


def with_command(manifest: Manifest, program: str, **pod: object) -> Manifest:
    """Returns a copy whose containers run another Python program, with other fields of the pod."""
    changed = copy.deepcopy(manifest)
    spec = changed.workload["spec"]["template"]["spec"]
    spec |= pod
    spec["containers"][0] |= {"command": ["python", "-c", kubernetes_escaped(program)], "args": []}
    return changed


def kubernetes_escaped(text: str) -> str:
    """Returns a text that expands to the given one where $(NAME) is expanded."""
    return text.replace("$", "$$")


@contextlib.contextmanager
def cluster(folder: Path, manifest: Manifest, data_dir: Path | None) -> Iterator[kubernetes_node.Node]:
    """Runs a cluster with the job, and a bucket that holds the data set."""
    (folder / "buckets/films").mkdir(parents=True)
    if data_dir:
        shutil.copytree(data_dir, folder / "buckets/films/dataset")
    for path in (folder / "buckets", *(folder / "buckets").rglob("*")):
        os.chown(path, USER, USER)
    try:
        with kubernetes_node.node(folder, manifest, pace=20) as node:
            yield node
    except namespaces.Unavailable as unavailable:
        pytest.skip(str(unavailable))


def saved(job_dir: Path) -> int:
    """Returns the step of the newest backup."""
    steps = [int(match[1]) for each in job_dir.glob("backup/ckpt-*.index") if (match := re.search(r"ckpt-(\d+)", each.name))]
    return max(steps, default=0)


def resumed(node: kubernetes_node.Node) -> list[int]:
    """Returns the step of each resumption on each worker. Only the chief logs what it restored, but all log the step."""
    logged = (re.findall(r'"message": "training", "worker": \d+, "step": (\d+)', each.text()) for each in node.containers)
    return [int(step) for steps in logged for step in steps if int(step)]


def test_a_job_that_loses_pods_ends_as_an_undisturbed_one(pair_dir, data_dir, tmp_path):
    cache = "--cache=/tmp/$(HOME) 'x' $$"
    manifest = rendered(f"--env=GREETING={GREETING}", arguments=(*PATHS, *OPTIONS, cache))
    with cluster(tmp_path, manifest, data_dir) as node:
        job_dir = node.buckets / "films/jobs/first"
        node.wait(lambda: all(each.ready for each in node.containers), 60)
        for container in node.containers:
            words, variables = container.given()
            assert words == ["python", "-m", "trainer.guard", "--rejoin=30", "--peer_timeout=900", *PATHS, *OPTIONS, cache]
            assert variables["GREETING"] == GREETING
        node.wait(lambda: saved(job_dir), 240)
        node.crash(1)
        # Its replacement is evicted while it starts; meanwhile the other worker waits without a restart.
        node.wait(lambda: len(node.containers) == 3 and node.containers[2].text(), 60)
        node.evict(1)
        node.wait(lambda: node.controller.end, 240)
        assert node.controller.end == ("Complete", "CompletionsReached"), node.logs()
        assert node.story() == [(0, 0, False), (1, 137, False), (1, 143, True), (1, 0, False)], node.logs()
        assert [(run.failures, run.ignored) for run in node.controller.runs] == [(0, 0), (0, 0), (1, 0), (1, 1)]
        assert "the worker rejoins the others: attempt 1 of 30" in node.containers[0].text()
        assert [0 < step < STEPS for step in resumed(node)] == [True, True], node.logs()
    assert_equal(pair_dir, job_dir)


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")
def test_a_chief_that_is_evicted_in_an_epoch_resumes_where_it_stopped(pair_dir, data_dir, tmp_path):
    with cluster(tmp_path, rendered(), data_dir) as node:
        job_dir = node.buckets / "films/jobs/first"
        node.wait(lambda: saved(job_dir), 240)
        node.evict(0)
        node.wait(lambda: node.controller.end, 240)
        assert node.controller.end == ("Complete", "CompletionsReached"), node.logs()
        assert node.story() == [(0, 143, True), (1, 0, False), (0, 0, False)], node.logs()
        step = re.findall(r"the state is saved at step (\d+)", node.containers[0].text())
        assert [f"{step}" for step in resumed(node)] == step * 2, node.logs()
    assert_equal(pair_dir, job_dir)


def test_a_data_set_that_is_missing_fails_the_job_at_once(tmp_path):
    with cluster(tmp_path, rendered("--workers=1"), None) as node:
        node.wait(lambda: node.controller.end, 120)
        assert node.controller.end == ("Failed", "PodFailurePolicy"), node.logs()
        assert node.story() == [(0, 2, False)]
        assert "error: --data_dir=/gcs/films/dataset is not a data set" in node.containers[0].text()


def test_a_worker_that_crashes_too_often_fails_the_job_and_the_other_is_asked_to_stop(data_dir, tmp_path):
    with cluster(tmp_path, rendered("--restarts=1"), data_dir) as node:

        def crash_once_there_are(pods: int) -> None:
            node.wait(lambda: len(node.containers) == pods and node.containers[-1].ready, 60)
            node.crash(1)

        crash_once_there_are(2)
        crash_once_there_are(3)
        node.wait(lambda: node.controller.end, 60)
        assert node.controller.end == ("Failed", "MaxFailedIndexesExceeded")
        assert node.story() == [(0, 143, False), (1, 137, False), (1, 137, False)], node.logs()


PROBE = """
import json, os, signal, socket, time
index, service = int(os.environ["JOB_COMPLETION_INDEX"]), os.environ["POSTER_SERVICE"]
def can_write(path):
    try:
        open(f"{path}/probe-{index}", "x").close()
    except OSError:
        return False
    return True
def resolved(name):
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
peer = f"{service}-{1 - index}.{service}"
until = time.time() + 5
while not resolved(peer) and time.time() < until:
    time.sleep(0.05)
print(json.dumps({
    "pid": os.getpid(), "user": os.getuid(), "groups": [os.getgid(), *os.getgroups()], "host": socket.gethostname(),
    "own": resolved(socket.gethostname()), "peer": resolved(peer), "stranger": resolved("example.org"),
    "writable": [path for path in ("/", "/app", "/usr", "/etc", "/dev/shm", "/gcs", "/tmp") if can_write(path)],
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapBnd", "NoNewPrivs"))],
}), flush=True)
time.sleep(60)
"""


def told(container: kubernetes_node.Container) -> dict[str, object]:
    """Returns what the probe printed."""
    lines = [line for line in container.text().splitlines() if line.startswith("{")]
    return json.loads(lines[0]) if lines else {}


def test_a_pod_has_the_user_files_names_and_termination_of_its_spec(tmp_path):
    manifest = with_command(rendered(), PROBE, terminationGracePeriodSeconds=1)
    name = manifest.workload["metadata"]["name"]
    with cluster(tmp_path, manifest, None) as node:
        node.wait(lambda: all(told(each) for each in node.containers), 30)
        addresses = [each.address for each in node.containers]
        for index, container in enumerate(node.containers):
            assert told(container) == {
                "pid": 1,
                "user": 1000,
                "groups": [1000, 1000],
                "host": f"{name}-{index}",
                "own": addresses[index],
                "peer": addresses[1 - index],
                "stranger": None,
                "writable": ["/dev/shm", "/gcs", "/tmp"],
                "privileges": ["0000000000000000", "1"],
            }
        # The pod ignores SIGTERM, and is killed. Its replacement has a new address and new folders; the bucket holds the file of
        # the earlier pod.
        node.evict(1)
        node.wait(lambda: len(node.containers) == 3 and told(node.containers[2]), 30)
        assert (node.story()[1], "asked" in node.containers[1].text()) == ((1, 137, True), True)
        assert node.containers[2].address not in addresses
        assert told(node.containers[2])["writable"] == ["/dev/shm", "/tmp"]


def test_workers_do_not_find_each_other_under_another_services_name(tmp_path):
    manifest = with_command(rendered(), PROBE.replace("+ 5", "+ 1"))
    manifest.services[0]["metadata"]["name"] = "film"
    with cluster(tmp_path, manifest, None) as node:
        node.wait(lambda: all(told(each) for each in node.containers), 30)
        assert [told(each)["peer"] for each in node.containers] == [None, None]


def test_a_users_kustomize_overlay_runs_like_launchs_objects(tmp_path):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    launched = rendered("--restarts=5", "--service_account=trainer")
    shutil.copytree(REPOSITORY / "k8s", tmp_path / "k8s")
    overlay = tmp_path / "mine/kustomization.yaml"
    overlay.parent.mkdir()
    overlay.write_text(OVERLAY.replace("film-1", launched.workload["metadata"]["name"]))
    done = subprocess.run(("kubectl", "kustomize", overlay.parent), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = expander.load(done.stdout)
    assert written.pods() == launched.pods()
    endpoints = [expander.Endpoint(pod, f"10.0.0.{pod.index}", ready=False) for pod in written.pods()]
    names = expander.names(written.services, endpoints)
    assert names == expander.names(launched.services, endpoints)
    assert len(names) == 8
    # The job controller acts the same.
    assert written.jobs() == launched.jobs()


# The fields that k8s/base/job.yaml tells users to set.
OVERLAY = """
resources: [../k8s/base]
components: [../k8s/components/gcsfuse]
labels:
  - pairs: {app.kubernetes.io/instance: film-1}
    includeSelectors: true
images:
  - name: poster-trainer
    newName: poster-trainer
patches:
  - target: {kind: Service}
    patch: |-
      - {op: replace, path: /metadata/name, value: film-1}
  - target: {kind: Job}
    patch: |-
      - {op: replace, path: /metadata/name, value: film-1}
      - {op: replace, path: /spec/completions, value: 2}
      - {op: replace, path: /spec/parallelism, value: 2}
      - {op: replace, path: /spec/backoffLimitPerIndex, value: 5}
      - {op: replace, path: /spec/template/spec/subdomain, value: film-1}
      - {op: replace, path: /spec/template/spec/serviceAccountName, value: trainer}
      - {op: replace, path: /spec/template/spec/containers/0/env/0/value, value: film-1}
      - {op: replace, path: /spec/template/spec/containers/0/env/1/value, value: "2"}
      - {op: replace, path: /spec/template/spec/containers/0/env/2/value, value: film-1}
      - op: replace
        path: /spec/template/spec/containers/0/args
        value:
          - --rejoin=30
          - --peer_timeout=900
          - --data_dir=/gcs/films/dataset
          - --job_dir=/gcs/films/jobs/first
          - --model=cnn
          - --augment=strong
          - --schedule=cosine
          - --epochs=2
          - --batch_size=12
          - --backup_steps=3
          - --learning_rate=0.003
"""


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")
def test_a_jobset_restarts_both_workers_when_one_crashes_and_ends_as_an_undisturbed_job(pair_dir, data_dir, tmp_path):
    with cluster(tmp_path, rendered("--jobset"), data_dir) as node:
        job_dir = node.buckets / "films/jobs/first"
        node.wait(lambda: saved(job_dir), 240)
        node.crash(1)
        node.wait(lambda: node.controller.end, 240)
        assert node.controller.end == ("Completed", "AllJobsCompleted"), node.logs()
        assert node.controller.restarts == 1
        assert [(index, code) for index, code, _ in node.story()][1:] == [(1, 137), (0, 0), (1, 0)], node.logs()
        assert 0 < resumed(node)[0] < STEPS
    assert_equal(pair_dir, job_dir)
