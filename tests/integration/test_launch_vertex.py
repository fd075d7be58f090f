"""The commands of launch with the official client against an emulation of Vertex AI, and how Vertex AI runs their jobs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud.aiplatform_v1.types import CustomJob

from launch.job import Job, Location
from launch.vertex import commands, logs
from launch.vertex.api import Api
from tests.fakes.vertex import launch
from tests.fakes.vertex.expander import Expansion, kill
from tests.fakes.vertex.server import PROJECT, REGION, Refused, Vertex
from tests.support import drawn
from tests.support.commands import ENVIRONMENT, REPOSITORY, end_all, run
from tests.support.jobs import assert_equal
from trainer.errors import LostService, UserError

RUN = ("run", "--skip_preflight", "--image=registry/film:1", "--name=film", "--workers=2")
FLAGS = ("--", "--data_dir=gs://films/d", "--job_dir=gs://films/j")
EXIT = "The replica {} exited with a non-zero status of {}. Termination reason: Error."


class Desk:
    """Runs launch against its own emulation of Vertex AI."""

    def __init__(self, folder: Path) -> None:
        self.vertex = Vertex()
        self.processes: list[subprocess.Popen[str]] = []
        self.home = folder
        self.credentials = folder / "account.json"
        self.vertex.credentials(self.credentials)
        without = {key: value for key, value in ENVIRONMENT.items() if not key.startswith(("GOOGLE_", "GCLOUD_", "CLOUDSDK_"))}
        own = {
            "HOME": str(folder),
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.credentials),
            "NO_PROXY": "*",
            "NO_GCE_CHECK": "true",
        }
        self.environment = without | own

    def start(self, *words: str, region: str | None = REGION, max_outage: float | None = 60.0) -> subprocess.Popen[str]:
        """Starts launch; with None for max_outage unchanged, so that it does not reach the server."""
        flags = ("--target=vertex", *([f"--region={region}"] if region else []))
        at = words.index("--") if "--" in words else len(words)
        server = ("tests.fakes.vertex.launch", self.vertex.address, self.vertex.url, str(max_outage))
        runner = (sys.executable, "-m", *(("launch",) if max_outage is None else server))
        process = subprocess.Popen(
            [*runner, *words[:at], *flags, *words[at:]],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *words: str, code: int = 0, **options) -> tuple[str, str]:
        return finish(self.start(*words, **options), code)

    def submit(self, **fields) -> CustomJob:
        """Starts a job from within this process; returns its CustomJob."""
        defaults: dict[str, Any] = {"region": REGION, "image": "i", "arguments": FLAGS[1:], "workers": 2}
        commands.run(Job(**(defaults | fields)), wait=False, run_preflight=False)
        return self.vertex.jobs()[-1]


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    end_all(desk.processes)
    desk.vertex.close()


@pytest.fixture
def here(desk, monkeypatch):
    """Returns a desk whose launch runs in this process."""
    from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport

    monkeypatch.setattr(JobServiceGrpcTransport, "create_channel", None)
    for name in ("URL", "POLL", "SETTLING"):
        monkeypatch.setattr(logs, name, getattr(logs, name))
    launch.redirect(desk.vertex.address, desk.vertex.url)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "NO_PROXY", "NO_GCE_CHECK", "HOME"):
        monkeypatch.setenv(name, desk.environment[name])
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    return desk


def finish(process, code):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def one_line(process, code=2):
    """Returns the one line with which a command must fail."""
    out, err = finish(process, code)
    lines = [line for line in err.splitlines() if not line.startswith("launch: ")]
    assert len(lines) == 1, err
    assert not out
    return lines[0]


def test_a_run_creates_what_a_dry_run_prints(desk):
    options = ("--accelerator=nvidia-l4:2", "--spot", "--label=team=films", "--env=PRICE=$(HOME)")
    started, dry = desk.start(*RUN, *options, *FLAGS), desk.start(*RUN, *options, "--dry_run", *FLAGS)
    out, err = finish(started, 0)
    name = out.strip()
    assert re.fullmatch("film-[0-9a-f]{8}", name)
    (job,) = desk.vertex.jobs()
    assert f"job {name}, number {job.name[-19:]}, in {REGION} of the project {PROJECT}: 2 workers on g2-standard-24" in err
    assert desk.vertex.requests == ["CreateCustomJob"]
    text = finish(dry, 0)[0]
    rendered = CustomJob.from_json(text.replace(json.loads(text)["displayName"], name))
    assert (rendered.display_name, rendered.labels, rendered.job_spec) == (job.display_name, job.labels, job.job_spec)


def test_waiting_follows_all_workers_to_the_end(desk):
    process = desk.start(*RUN, "--wait", *FLAGS)
    vertex = desk.vertex
    job = vertex.wait_for_job()
    vertex.wait_until_asked("GetCustomJob", 2)
    vertex.write(job, "service", "Waiting for job to be provisioned.")
    vertex.advance(job, "PENDING")
    vertex.wait_until_asked("GetCustomJob", 2)
    vertex.advance(job, "RUNNING")
    vertex.write(job, "workerpool0-0", *(f"chief {number}" for number in range(7)), structured=True)
    vertex.write(job, "workerpool1-0", "worker 0", "two\nlines")
    vertex.wait_until_asked("entries", 3)
    vertex.write(job, "workerpool0-0", "late", late=60.0)
    vertex.end(job, "SUCCEEDED")
    vertex.wait_until_asked("GetCustomJob", 1)
    vertex.write(job, "workerpool0-0", "last")  # The log may lag behind the job.
    out, err = finish(process, 0)
    lines = out.splitlines()
    chief = [line for line in lines if line.startswith("[0]")]
    assert chief == [*(f"[0] chief {number}" for number in range(7)), "[0] late", "[0] last"]
    assert [line for line in lines if line not in chief] == ["[1] worker 0", "[1] two", "[1] lines"]
    assert re.findall("launch: job film-[0-9a-f]+ is (.*)", err) == ["waiting", "starting", "running", "done"]
    assert err.count("launch: Vertex AI: Waiting for job to be provisioned.") == 1


def test_an_outage_of_the_service_is_tolerated(desk):
    process = desk.start(*RUN[:-1], "--wait", *FLAGS)
    vertex = desk.vertex
    job = vertex.wait_for_job()
    vertex.refusals["GetCustomJob"] = Refused(grpc.StatusCode.UNAVAILABLE, "backend is away")
    vertex.log_status = 429
    vertex.wait_until_asked("GetCustomJob", 3)
    vertex.write(job, "workerpool0-0", "one", "two")
    vertex.refusals.clear()
    vertex.wait_until_asked("GetCustomJob", 1)
    vertex.log_status = 503
    vertex.wait_until_asked("GetCustomJob", 2)
    vertex.log_status = 200
    vertex.end(job, "FAILED", EXIT.format("workerpool0-0", 7))
    out, err = finish(process, 7)
    assert out == "one\ntwo\n"  # A single worker has no prefix.
    assert len(re.findall(r"launch: .*backend is away.* \(retrying for 60 s\)", err)) == 1
    assert "failed (The replica workerpool0-0 exited with a non-zero status of 7" in err.splitlines()[-1]


def test_ctrl_c_stops_following_and_cancel_stops_the_job(desk):
    first, second = desk.start(*RUN, "--wait", *FLAGS), desk.start(*RUN, "--wait", *FLAGS)
    desk.vertex.wait_until_asked("entries", 8)
    first.send_signal(signal.SIGINT)
    _, err = finish(first, 143)
    assert "the job goes on: follow it with python -m launch logs film-" in err.splitlines()[-1]
    assert [job.end_time for job in desk.vertex.jobs()] == [None, None]
    (name,) = re.findall("job (film-[0-9a-f]{8}), number", err)
    (other,) = (job.display_name for job in desk.vertex.jobs() if job.display_name != name)
    desk.run("cancel", other)
    _, err = finish(second, 143)
    assert f"job {other} was cancelled" in err.splitlines()[-1]


def test_commands_about_jobs_in_their_own_processes(desk):
    no_credentials = desk.environment | {"GOOGLE_APPLICATION_CREDENTIALS": "", "CLOUDSDK_CONFIG": str(desk.home / "none")}
    processes = {
        "list": desk.start("list"),
        "unknown": desk.start("status", "film-00000000"),
        "elsewhere": desk.start("list", region="europe-west1", max_outage=0.5),
        "nowhere": desk.start("list", region=None, max_outage=None),
    }
    desk.environment = no_credentials
    processes["anonymous"] = desk.start("list", max_outage=None)
    assert finish(processes["list"], 0)[0].split() == ["NAME", "STATE", "WORKERS", "AGE"]
    says = f"job film-00000000 does not exist in {REGION} of the project {PROJECT}: choose one of python -m launch list"
    assert says in one_line(processes["unknown"])
    line = one_line(processes["elsewhere"], 75)
    assert re.search(r"europe-west1-aiplatform\.googleapis\.com does not answer .*or check --region=europe-west1", line)
    assert "--region is missing" in one_line(processes["nowhere"])
    assert re.search("no credentials for Google Cloud .*gcloud auth application-default login", one_line(processes["anonymous"]))


def test_a_missing_extra_is_named(desk):
    text = """
import runpy, sys
sys.modules["google.cloud.aiplatform_v1.services.job_service"] = None
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""
    for words, code in ((("list", f"--region={REGION}"), 2), ((*RUN, "--dry_run", *FLAGS), 0)):
        done = subprocess.run(
            [sys.executable, "-c", text, "--target=vertex", *words],
            cwd=REPOSITORY,
            env=desk.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert ("pip install 'poster-trainer[vertex]'" in done.stderr) == (code == 2)


def test_status_and_list_show_jobs_by_name_and_number(here, capsys):
    first, second, third = (here.submit(name=name) for name in ("one", "two", "three"))
    here.vertex.advance(first, "RUNNING")
    here.vertex.end(first, "FAILED", "The job is too bad.\nReally.")
    here.vertex.advance(second, "RUNNING")
    here.vertex.jobs()[2].labels.clear()  # A job of another program.
    capsys.readouterr()
    location = Location(region=REGION)
    commands.list_jobs(location)
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert rows == [["NAME", "STATE", "WORKERS"], [second.display_name, "running", "2"], [first.display_name, "failed", "2"]]
    for name in (first.display_name, first.name.rpartition("/")[2]):
        commands.status(name, location)
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == f"{first.display_name}  failed: The job is too bad. Really."
        assert shown[2].split()[:3] == [first.name[-19:], "2", "e2-standard-4"]
    for name in (third.display_name, third.name.rpartition("/")[2], 'x" OR display_name="y'):
        with pytest.raises(UserError, match="does not exist in"):
            commands.status(name, location)
    with pytest.raises(UserError, match=r"has ended already \(failed\)"):
        commands.cancel(first.display_name, location)


@pytest.mark.parametrize(
    ("method", "code", "message", "kind", "says"),
    [
        ("CreateCustomJob", "PERMISSION_DENIED", "Permission denied", UserError, "ask for the role roles/aiplatform.user"),
        ("CreateCustomJob", "PERMISSION_DENIED", "Vertex AI API has not been used", UserError, "gcloud services enable"),
        ("CreateCustomJob", "UNAUTHENTICATED", "invalid credentials", UserError, "rejects your credentials"),
        ("CreateCustomJob", "INVALID_ARGUMENT", "no such image", UserError, "rejected it (400 no such image)|no such image"),
        ("CreateCustomJob", "RESOURCE_EXHAUSTED", "custom_model_training_nvidia_l4_gpus", UserError, "a larger Vertex AI quota"),
        ("CreateCustomJob", "UNAVAILABLE", "away", LostService, "does not answer (away): try again"),
        ("CreateCustomJob", "INTERNAL", "oops", LostService, "answered 500"),
        ("ListCustomJobs", "PERMISSION_DENIED", "Permission denied", UserError, "cannot list jobs: you lack the permission"),
        ("ListCustomJobs", "RESOURCE_EXHAUSTED", "slowly", LostService, "answered 429 (slowly): try again"),
    ],
)
def test_a_rejected_request_ends_in_one_line(here, method, code, message, kind, says):
    here.vertex.refusals[method] = Refused(grpc.StatusCode[code], message)
    with pytest.raises(kind) as caught:
        if method == "CreateCustomJob":
            here.submit()
        else:
            commands.list_jobs(Location(region=REGION))
    assert any(each in str(caught.value) for each in says.split("|"))
    assert "\n" not in str(caught.value)


def test_invalid_credentials_projects_and_regions_are_named(here):
    with pytest.raises(UserError, match="you lack the permission in the project other"):
        Api("other", REGION).jobs()
    with pytest.raises(UserError, match="--region must be a region of Vertex AI, such as europe-west4, got 'mars'"):
        Api(None, "mars")
    here.vertex.token_status = 400
    with pytest.raises(UserError, match=r"no longer valid .*gcloud auth application-default login"):
        Api(None, REGION)
    here.vertex.token_status = 200
    assert Api(None, REGION).project == PROJECT


def test_no_line_of_a_log_is_lost_or_repeated(here, capfdbinary):
    job = here.submit()
    capfdbinary.readouterr()
    api = Api(None, REGION)
    log = logs._Log(api, api.get(job.display_name))
    expected = []
    for number in range(30):
        here.vertex.write(job, f"workerpool{number % 2}-0", f"line {number}", late=(number * 37) % 100)
        expected.append(f"[{number % 2}] line {number}")
        if number % 4 == 0:
            log.print_new()
    log.print_new()
    assert log.print_new() == 0
    assert sorted(capfdbinary.readouterr().out.decode().splitlines()) == sorted(expected)


def test_the_emulation_rejects_what_vertex_ai_would(here):
    api = Api(None, REGION)
    good = json.loads(CustomJob.to_json(here.submit(), use_integers_for_enums=False))
    for field in ("name", "state", "createTime"):
        del good[field]
    assert api.submit(good).workers == 2

    def machine(type_, **accelerators):
        return lambda spec: spec["workerPoolSpecs"][0].update(machineSpec={"machineType": type_, **accelerators})

    def gpus(kind, count):
        return {"acceleratorType": kind, "acceleratorCount": count}

    changes = {
        "just one replica": lambda spec: spec["workerPoolSpecs"][0].update(replicaCount="2"),
        "no replica or no image": lambda spec: spec["workerPoolSpecs"][1]["containerSpec"].update(imageUri=""),
        "machine type n1-standard-2 is not": machine("n1-standard-2"),
        "g2-standard-24 does not have 1 NVIDIA_L4": machine("g2-standard-24", **gpus("NVIDIA_L4", 1)),
        "n1-standard-32 does not have 1": machine("n1-standard-32", **gpus("NVIDIA_TESLA_T4", 1)),
        "does not have this topology": machine("ct5lp-hightpu-4t", tpuTopology="2x2"),
        "base_output_directory": lambda spec: spec.update(baseOutputDirectory={"outputUriPrefix": "/gcs/films/j"}),
        "service_account is required": lambda spec: spec.update(tensorboard=f"projects/1/locations/{REGION}/tensorboards/2"),
        "timeout must be": lambda spec: spec["scheduling"].update(timeout="0s"),
    }
    for says, change in changes.items():
        bad = json.loads(json.dumps(good))
        change(bad["jobSpec"])
        with pytest.raises(UserError, match=says):
            api.submit(bad)


SMALL = ("--model=cnn", "--augment=strong", "--epochs=2", "--batch_size=12", "--backup_steps=2", "--learning_rate=0.003")


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")
def test_a_job_as_vertex_ai_runs_it_trains_the_same_model(here, tmp_path):
    """Runs two real workers as the submitted job describes them; one is killed during training."""
    bucket, undisturbed = tmp_path / "bucket", tmp_path / "undisturbed"
    drawn.dataset(bucket / "dataset", train=98, validation=16, test=17, shard_count=4)
    paths = ("--data_dir=gs://films/dataset", "--job_dir=gs://films/jobs/first")
    here.submit(name="film", arguments=(*paths, *SMALL, "--peer_timeout=120"))
    expansion = expanded(here, tmp_path / "output", bucket)
    chief, worker = (replica.environment for replica in expansion.replicas)
    assert worker["AIP_MODEL_DIR"] == "gs://films/jobs/first/model/"  # The job writes its model to this URI too.
    assert chief["POSTER_JOB_ID"] == worker["POSTER_JOB_ID"] == here.vertex.jobs()[0].display_name
    backup = bucket / "jobs/first/backup"
    killed: list[str] = []

    def kill_once(expansion: Expansion) -> None:
        if not killed and backup.exists() and any(backup.iterdir()):
            killed.append(expansion.replicas[1].task)
            kill(expansion.replicas[1])

    assert expansion.run(kill_once) == "SUCCEEDED", expansion.output()
    assert killed == ["workerpool1-0"]
    assert expansion.ends[0] == ("workerpool1-0", 137)
    assert sorted(expansion.ends[1:]) == [("workerpool0-0", 0), ("workerpool1-0", 0)]
    assert "restored step" in expansion.output()
    run("launch", "--target=local", "--workers=2", "--", f"--data_dir={bucket}/dataset", f"--job_dir={undisturbed}", *SMALL)
    assert_equal(bucket / "jobs/first", undisturbed)


def test_restarts_0_does_not_restart_a_worker_that_exits_2(here, tmp_path):
    """Uses --restarts=0, because Vertex AI would restart a worker after exit code 2 too."""
    here.submit(workers=1, arguments=("--data_dir=gs://films/none", "--job_dir=gs://films/j"), restarts=0)
    expansion = expanded(here, tmp_path / "output", tmp_path)
    assert expansion.run() == "FAILED"
    assert expansion.ends == [("workerpool0-0", 2)]
    assert "Traceback" not in expansion.output()


def expanded(here, output, bucket):
    """Returns the submitted job as Vertex AI would run it, with a folder for the bucket gs://films."""
    output.mkdir()
    job = json.loads(CustomJob.to_json(here.vertex.jobs()[-1], use_integers_for_enums=False))
    return Expansion(job, output, {"films": bucket})
