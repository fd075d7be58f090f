"""The commands of launch with the official client, against an emulation of a cluster's API over HTTP."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.fakes.kubernetes.kubeconfig import kubeconfig
from tests.fakes.kubernetes.server import Cluster, Refused
from tests.support.commands import ENVIRONMENT, REPOSITORY, end_all

# python -m launch, with shorter pauses.
_LAUNCH = """
import runpy, sys
from launch import following
from launch.kubernetes import logs
logs.POLL, following.MAX_OUTAGE = 0.1, float(sys.argv.pop(1))
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""

RUN = ("run", "--skip_preflight", "--image=registry/film:1", "--name=film", "--workers=2")
FLAGS = ("--", "--data_dir=gs://b/d", "--job_dir=gs://b/j")


class Desk:
    """Runs launch against its own emulated cluster."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        self.processes: list[subprocess.Popen[str]] = []
        self.config = folder / "config"
        self.configure(self.cluster.url)

    def configure(self, server: str, **context: str) -> None:
        """Writes kubectl's configuration."""
        self.config.write_text(kubeconfig(server, **context))

    def start(self, *words: str, max_outage: float = 60.0) -> subprocess.Popen[str]:
        flags = ("--target=kubernetes",)
        at = words.index("--") if "--" in words else len(words)
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(max_outage), *words[:at], *flags, *words[at:]],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, "KUBECONFIG": str(self.config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *words: str, code: int = 0, max_outage: float = 60.0) -> tuple[str, str]:
        return finish(self.start(*words, max_outage=max_outage), code)

    def refusal(self, *words: str, code: int = 2) -> str:
        """Runs a command that must fail with one line; returns the line."""
        out, err = self.run(*words, code=code, max_outage=0.5)
        lines = [line for line in err.splitlines() if not line.startswith("launch: ")]
        assert len(lines) == 1, err
        assert not out
        return lines[0]


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    end_all(desk.processes)
    desk.cluster.close()


def finish(process, code):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def submitted(desk, *flags):
    """Starts a job; returns its object."""
    name = desk.run(*RUN, *flags, *FLAGS)[0].strip()
    return desk.cluster.get("jobsets" if "--jobset" in flags else "jobs", "default", name)


def test_a_run_creates_a_job_and_its_service(desk):
    out, err = desk.run(*RUN, *FLAGS)
    name = out.strip()
    assert re.fullmatch("film-[0-9a-f]{8}", name)
    (job,), (service,) = desk.cluster.objects("jobs"), desk.cluster.objects("services")
    assert job["metadata"]["name"] == service["metadata"]["name"] == name
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    assert service["metadata"]["ownerReferences"] == [owner]
    assert job["spec"]["completions"] == 2
    assert f"job {name} in the namespace default: 2 workers" in err
    assert desk.cluster.requests == ["POST jobs", "POST services"]


def test_a_run_creates_what_a_dry_run_prints(desk):
    out, _ = desk.run(*RUN, "--dry_run", *FLAGS)
    assert not desk.cluster.requests
    rendered = list(yaml.safe_load_all(out))
    created = [desk_object(submitted(desk)), desk_object(desk.cluster.objects("services")[0])]
    names = [each[0]["metadata"]["name"] for each in (rendered, created)]
    assert yaml.safe_dump(rendered).replace(names[0], "N") == yaml.safe_dump(created).replace(names[1], "N")


def desk_object(made):
    """Returns the object as launch sent it, without the fields that the cluster adds."""
    added = ("uid", "creationTimestamp", "namespace", "ownerReferences")
    return made | {"metadata": {key: value for key, value in made["metadata"].items() if key not in added}}


@pytest.mark.parametrize("jobset", [False, True])
def test_waiting_follows_all_workers_through_a_replacement_to_the_end(desk, jobset):
    process = desk.start(*RUN, "--wait", *(["--jobset"] if jobset else []), *FLAGS)
    cluster = desk.cluster
    job = cluster.wait_for("jobsets" if jobset else "jobs")
    first, second = cluster.add_pod(job, 0), cluster.add_pod(job, 1, running=False)
    cluster.write(first, "chief 1", "chief 2")
    cluster.wait_until_asked("GET pods", 4)
    cluster.start_pod(second)
    cluster.write(second, "worker 1", "lost a peer")
    cluster.end_pod(second, 75)
    third = cluster.add_pod(job, 1)
    cluster.write(third, "back", "done")
    cluster.write(first, "chief 3", "10%\r20%\r30%")
    for pod in (first, third):
        cluster.end_pod(pod, 0)
    cluster.wait_until_asked("GET pods", 4)
    cluster.end(job, "Completed" if jobset else "Complete")
    out, err = finish(process, 0)
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("[0]")] == ["[0] chief 1", "[0] chief 2", "[0] chief 3", "[0] 30%"]
    assert re.findall(r"launch: worker 1, pod (\S+): (.*)", err) == [
        (second, "ContainerCreating"),
        (second, "exited 75"),
        (third, "exited 0"),
    ]
    assert [line for line in lines if line.startswith("[1]")] == ["[1] worker 1", "[1] lost a peer", "[1] back", "[1] done"]


def test_a_broken_connection_loses_and_repeats_no_line(desk):
    job = submitted(desk)
    cluster = desk.cluster
    pod = cluster.add_pod(job, 0)
    cluster.cuts = 2
    process = desk.start("logs", job["metadata"]["name"])
    for number in range(10):
        cluster.write(pod, f"line {2 * number}", f"line {2 * number + 1}")
        time.sleep(0.05)
    cluster.end_pod(pod, 0)
    cluster.end(job, "Complete")
    out, _ = finish(process, 0)
    assert out.splitlines() == [f"[0] line {number}" for number in range(20)]
    assert cluster.cuts == 0


def test_waiting_for_a_job_that_is_cancelled_exits_143(desk):
    process = desk.start(*RUN, "--wait", *FLAGS)
    job = desk.cluster.wait_for("jobs")
    pod = desk.cluster.add_pod(job, 0)
    desk.cluster.write(pod, "one")
    assert process.stdout
    assert process.stdout.readline() == "[0] one\n"
    desk.run("cancel", job["metadata"]["name"])
    _, err = finish(process, 143)
    assert "was cancelled" in err.splitlines()[-1]


def test_an_outage_of_the_cluster_is_tolerated(desk):
    process = desk.start(*RUN, "--wait", *FLAGS)
    job = desk.cluster.wait_for("jobs")
    desk.cluster.wait_for("services")
    desk.cluster.refusals |= {f"GET {plural}": Refused(503, "ServiceUnavailable", "etcd is away") for plural in ("jobs", "pods")}
    desk.cluster.wait_until_asked("GET jobs", 3)
    desk.cluster.refusals.clear()
    desk.cluster.end(job, "Complete")
    _, err = finish(process, 0)
    assert "the cluster answered 503 (etcd is away): try again (retrying for 60 s)" in err
    desk.cluster.refusals["GET jobs"] = Refused(503, "ServiceUnavailable", "etcd is away")
    assert "503" in desk.refusal("logs", job["metadata"]["name"], code=75)


def test_ctrl_c_stops_following_but_not_the_job(desk):
    process = desk.start(*RUN, "--wait", *FLAGS)
    job = desk.cluster.wait_for("jobs")
    desk.cluster.write(desk.cluster.add_pod(job, 0), "one")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 143)
    assert "the job goes on: follow it with python -m launch logs film-" in err.splitlines()[-1]
    assert desk.cluster.objects("jobs") == [job]


def test_a_job_that_may_have_been_created_is_named(desk):
    desk.cluster.refusals["POST jobs"] = Refused(503, "ServiceUnavailable", "etcd is away")
    assert re.search(r"film-[0-9a-f]{8} may have been created: .* cancel film-", desk.refusal(*RUN, *FLAGS, code=75))


def test_an_error_while_following_says_that_the_job_goes_on(desk):
    process = desk.start(*RUN, "--wait", *FLAGS)
    desk.cluster.wait_for("services")
    desk.cluster.refusals["GET pods"] = Refused(403, "Forbidden", "no pods for you")
    _, err = finish(process, 2)
    assert "no pods for you" in err.splitlines()[-1]
    assert "the job goes on: follow it with python -m launch logs film-" in err.splitlines()[-1]


def test_list_shows_only_jobs_that_launch_created(desk):
    first, second = submitted(desk), submitted(desk, "--jobset")
    other = {**desk_object(first), "metadata": {"name": "other", "labels": {}}}
    desk.cluster.create("jobs", "default", other)
    desk.cluster.end(first, "Complete")
    rows = [line.split()[:3] for line in desk.run("list")[0].splitlines()]
    assert rows[0] == ["NAME", "STATE", "WORKERS"]
    expected = [[first["metadata"]["name"], "done", "2"], [second["metadata"]["name"], "starting", "2"]]
    assert rows[1:] == sorted(expected)
    desk.cluster.has_jobsets = False
    assert first["metadata"]["name"] in desk.run("list")[0]
    desk.cluster.refusals["GET jobsets"] = Refused(403, "Forbidden", "jobsets is forbidden")
    assert first["metadata"]["name"] in desk.run("list")[0]
    assert "job other does not exist" in desk.refusal("status", "other")
    assert "job other does not exist" in desk.refusal("cancel", "other")


def test_cancel_deletes_all_objects_of_a_job(desk):
    job = submitted(desk)
    desk.cluster.add_pod(job, 0)
    desk.run("cancel", job["metadata"]["name"])
    assert not any(desk.cluster.objects(plural) for plural in ("jobs", "services", "pods"))
    assert "does not exist" in desk.refusal("cancel", job["metadata"]["name"])


@pytest.mark.parametrize(
    ("request_", "refusal", "code", "says"),
    [
        ("POST jobs", Refused(409, "AlreadyExists", 'jobs "film" already exists'), 2, "the name is in use"),
        (
            "POST jobs",
            Refused(403, "Forbidden", "jobs is forbidden"),
            2,
            "cannot create Job .* you lack the permission in the namespace default",
        ),
        ("POST jobs", Refused(401, "Unauthorized", "Unauthorized"), 2, "rejects your credentials .*: log in again"),
        ("POST jobs", Refused(422, "Invalid", "spec: Invalid value"), 2, r"rejected it \(422: spec: Invalid value\)"),
        ("POST jobs", Refused(503, "ServiceUnavailable", "away"), 75, "answered 503 .*: try again"),
        ("POST jobs", Refused(429, "TooManyRequests", "slowly"), 75, "answered 429"),
        ("POST services", Refused(403, "Forbidden", "services is forbidden"), 2, "cannot create Service"),
    ],
)
def test_a_rejected_job_ends_in_one_line_and_leaves_nothing(desk, request_, refusal, code, says):
    desk.cluster.refusals[request_] = refusal
    assert re.search(says, desk.refusal(*RUN, *FLAGS, code=code))
    assert not desk.cluster.objects("jobs")
    assert not desk.cluster.objects("services")


def test_a_log_without_permission_ends_in_one_line(desk):
    job = submitted(desk)
    desk.cluster.add_pod(job, 0)
    desk.cluster.refusals["GET pods"] = Refused(403, "Forbidden", "pods is forbidden")
    assert "cannot list pods: you lack the permission" in desk.refusal("logs", job["metadata"]["name"])


def test_a_cluster_without_jobsets_says_so(desk):
    desk.cluster.has_jobsets = False
    assert "cannot create JobSet" in desk.refusal(*RUN, "--jobset", *FLAGS)


def test_a_server_that_does_not_answer_is_named(desk):
    desk.configure("http://127.0.0.1:9")
    line = desk.refusal(*RUN, *FLAGS, code=75)
    assert re.search(
        r"the cluster at 127\.0\.0\.1:9 does not answer \(.*refused\): try again, or check kubectl's current context", line
    )
    assert "object at" not in line


def test_a_missing_extra_is_named(desk):
    text = """
import runpy, sys
sys.modules["kubernetes"] = None
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""
    for words, code in (("list",), 2), ((*RUN, "--dry_run", *FLAGS), 0):
        done = subprocess.run(
            [sys.executable, "-c", text, "--target=kubernetes", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert ("pip install 'poster-trainer[kubernetes]'" in done.stderr) == (code == 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status",), "status takes the name of one job, got 0"),
        (("logs", "a", "b"), "logs takes the name of one job, got 2"),
        (("cancel", "a", "--", "--epochs=3"), "'--epochs=3' is a flag of trainer.task, which cancel does not take"),
        (("watch", "a"), "'watch' is not a command of launch"),
        ((*RUN, "--", "--data_dir=d", "--job_dir=j", "--modle=cnn"), "'modle'"),
        ((*RUN[:4], "--workers=0", *FLAGS), "--workers must be"),
        (("run", *FLAGS), "--image is missing"),
    ],
)
def test_a_wrong_command_ends_in_one_line(desk, words, says):
    assert says in desk.refusal(*words)
    assert not desk.cluster.requests


def test_the_emulation_rejects_what_kubernetes_would(desk):
    job = desk_object(submitted(desk))
    for path, value in (("completions", "two"), ("completionMod", "Indexed")):
        with pytest.raises(Refused, match=r"two|completionMod"):
            desk.cluster.create("jobs", "default", {**job, "metadata": {"name": "x"}, "spec": job["spec"] | {path: value}})
    with pytest.raises(Refused, match="already exists"):
        desk.cluster.create("jobs", "default", job)
