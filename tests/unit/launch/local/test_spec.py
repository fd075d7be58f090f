"""The spec of a job on this machine: its processes, their GPUs and their ports."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from launch.job import Job
from launch.local import spec as local
from trainer.errors import UserError

ARGUMENTS = ("--data_dir=d", "--job_dir=j", "--grace_period=7")


def job(**fields):
    return Job(**({"arguments": ARGUMENTS} | fields))


def specify(job, *, ports=(20001, 20002, 20003), gpus=()):
    return local.specify(job, job_id="poster-1", ports=ports[: job.workers], gpus=gpus)


def variables(spec, name):
    return [worker.environment.get(name) for worker in spec.workers]


def test_each_worker_is_a_guard_with_the_given_flags():
    arguments = (*ARGUMENTS, "--profile_steps=1,2", "--log_format=text")
    for worker in specify(job(arguments=arguments, workers=3)).workers:
        assert worker.command == (sys.executable, "-m", "trainer.guard", *arguments)


def test_only_several_workers_get_a_cluster():
    assert variables(specify(job()), "TF_CONFIG") == [None]
    clusters = [json.loads(text) for text in variables(specify(job(workers=3)), "TF_CONFIG")]
    cluster = {"chief": ["127.0.0.1:20001"], "worker": ["127.0.0.1:20002", "127.0.0.1:20003"]}
    assert [each["cluster"] for each in clusters] == [cluster] * 3
    assert [(each["task"]["type"], each["task"]["index"]) for each in clusters] == [("chief", 0), ("worker", 0), ("worker", 1)]


def test_all_workers_have_the_job_and_the_users_variables():
    spec = specify(job(workers=2, env={"A": "b"}))
    assert variables(spec, "POSTER_JOB_ID") == ["poster-1"] * 2
    assert variables(spec, "A") == ["b"] * 2


@pytest.mark.parametrize(
    ("workers", "gpus", "devices"),
    [
        (3, ("0", "1"), ["0", "1", "0"]),
        (2, ("0", "1", "2"), ["0", "1"]),
        (2, ("GPU-a", "GPU-b"), ["GPU-a", "GPU-b"]),
        (2, ("0",), [None, None]),
        (2, (), [None, None]),
        # A single worker uses all GPUs.
        (1, ("0", "1"), [None]),
    ],
)
def test_several_workers_get_one_gpu_each(workers, gpus, devices):
    assert variables(specify(job(workers=workers), gpus=gpus), "CUDA_VISIBLE_DEVICES") == devices


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [
        (None, ("0", "1")),
        ("", ()),
        ("-1", ()),
        ("3", ("3",)),
        ("1, 3", ("1", "3")),
        ("1,-1,2", ("1",)),
        ("GPU-a,GPU-b", ("GPU-a", "GPU-b")),
    ],
)
def test_cuda_visible_devices_overrides_the_count_of_gpus(monkeypatch, chosen, gpus):
    monkeypatch.setattr(local, "_count_gpus", lambda: 2)
    assert local.visible_gpus({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}) == gpus


def test_gpus_are_counted_by_their_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local._count_gpus() == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "GPU 0: a"; echo "  MIG 1g.5gb Device 0: b"; echo "GPU 1: c"\n')
    tool.chmod(0o755)
    assert local._count_gpus() == 2
    for number in range(3):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(local, "_DRIVER", tmp_path / "gpus")
    assert local._count_gpus() == 3


def test_possible_secrets_are_masked():
    env = {"HF_TOKEN": "s3", "my_secret": "s3", "DB_PASSWORD": "s3", "API_KEY": "s3", "GOOGLE_CREDENTIALS": "s3", "COLOUR": "red"}
    spec = specify(job(workers=2, env=env, time_limit=60.0, restarts=1))
    shown = local.describe(spec)
    assert "s3" not in json.dumps(shown)
    assert [worker["environment"]["COLOUR"] for worker in shown["workers"]] == ["red"] * 2
    assert shown["workers"][1]["environment"]["TF_CONFIG"] == spec.workers[1].environment["TF_CONFIG"]
    assert (shown["job_id"], shown["restarts"], shown["grace_period"], shown["time_limit"]) == ("poster-1", 1, 7.0, 60.0)
    assert variables(spec, "HF_TOKEN") == ["s3"] * 2  # The worker gets it.


def test_ports_are_free_and_not_ephemeral(monkeypatch):
    ports = local.free_ports(50)
    assert len(set(ports)) == 50
    monkeypatch.setattr(local, "_ephemeral_ports", lambda: range(1024, 29_900))
    assert min(local.free_ports(50)) >= 29_900
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken:
        monkeypatch.setattr(local, "_ephemeral_ports", lambda: range(0))
        monkeypatch.setattr(local, "_PORTS", range(port, port + 1))
        with pytest.raises(UserError, match="--workers=1 needs"):
            local.free_ports(1)
    assert local.free_ports(1) == (port,)


@pytest.mark.parametrize(
    ("text", "ephemeral"),
    [("32768\t60999\n", range(32_768, 61_000)), ("unknown", range(0)), ("1 2 3", range(0)), (None, range(0))],
)
def test_the_range_of_ephemeral_ports_includes_its_last(monkeypatch, tmp_path, text, ephemeral):
    if text is not None:
        (tmp_path / "range").write_text(text)
    monkeypatch.setattr(local, "Path", lambda _: tmp_path / "range")
    assert local._ephemeral_ports() == ephemeral


def test_ephemeral_ports_are_used_if_there_are_no_others(monkeypatch):
    monkeypatch.setattr(local, "_ephemeral_ports", lambda: range(1024, 65_536))
    (port,) = local.free_ports(1)
    assert port in range(20_000, 30_000)


def test_the_search_for_ports_begins_at_a_random_one_and_goes_round(monkeypatch):
    class Random:
        def randrange(self, count):
            return count - 2

    monkeypatch.setattr(local.random, "SystemRandom", Random)
    monkeypatch.setattr(local, "_ephemeral_ports", lambda: range(0))
    monkeypatch.setattr(local, "_can_bind", lambda family, port: port != 20_001)
    assert local.free_ports(4) == (29_998, 29_999, 20_000, 20_002)


def test_too_few_free_ports_are_counted(monkeypatch):
    monkeypatch.setattr(local, "_can_bind", lambda family, port: port in (20_005, 29_999))
    monkeypatch.setattr(local, "_ephemeral_ports", lambda: range(0))
    assert sorted(local.free_ports(2)) == [20_005, 29_999]
    says = (
        "^--workers=3 needs 3 free ports from 20000 to 29999, but only 2 are free: use fewer workers, or stop what listens there$"
    )
    with pytest.raises(UserError, match=says):
        local.free_ports(3)


@pytest.mark.parametrize(
    ("family", "number", "is_free"),
    [
        (socket.AF_INET6, errno.EADDRINUSE, False),
        (socket.AF_INET6, errno.EACCES, False),
        (socket.AF_INET6, errno.EAFNOSUPPORT, True),  # A kernel without IPv6.
        (socket.AF_INET6, errno.EADDRNOTAVAIL, True),  # IPv6 is disabled.
        (socket.AF_INET, errno.EADDRINUSE, False),
        (socket.AF_INET, errno.EAFNOSUPPORT, False),
    ],
)
def test_a_port_is_free_if_no_process_can_have_it(monkeypatch, family, number, is_free):
    class Socket(socket.socket):
        def bind(self, address):
            if self.family == family:
                raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.socket, "socket", Socket)
    monkeypatch.setattr(local.socket, "has_ipv6", True)
    assert list(local._free([20_000])) == ([20_000] if is_free else [])


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_a_port_that_is_taken_under_ipv6_alone_is_taken(monkeypatch, has_ipv6):
    tried = []

    def can_bind(family, port):
        tried.append(family)
        return family == socket.AF_INET

    monkeypatch.setattr(local, "_can_bind", can_bind)
    monkeypatch.setattr(local.socket, "has_ipv6", has_ipv6)
    assert list(local._free([20_000])) == ([] if has_ipv6 else [20_000])
    assert tried == ([socket.AF_INET6] if has_ipv6 else [socket.AF_INET])


def test_a_plan_has_the_gpus_that_the_jobs_environment_leaves(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert variables(local.plan(job(workers=2)), "CUDA_VISIBLE_DEVICES") == ["0", "1"]
    assert variables(local.plan(job(workers=2, env={"CUDA_VISIBLE_DEVICES": "5,6"})), "CUDA_VISIBLE_DEVICES") == ["5", "6"]


@pytest.mark.parametrize(
    ("workers", "gpus", "is_told"), [(2, 3, True), (3, 2, True), (2, 2, False), (2, 1, False), (2, 0, False), (1, 2, False)]
)
def test_a_number_of_workers_that_is_not_that_of_the_gpus_is_told(monkeypatch, capsys, workers, gpus, is_told):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    local.plan(job(workers=workers))
    says = f"launch: --workers={workers} on {gpus} GPUs: training is fastest with one worker for each GPU\n"
    assert capsys.readouterr().err == (says if is_told else "")


def test_a_plan_has_a_new_name_and_a_port_for_each_worker(monkeypatch):
    plans = [local.plan(job(workers=2, name="film", restarts=5, time_limit=60.0)) for _ in range(2)]
    assert len({plan.job_id for plan in plans}) == 2
    for plan in plans:
        assert plan.job_id.startswith("film-")
        assert (plan.restarts, plan.time_limit, plan.grace_period) == (5, 60.0, 7.0)
        cluster = json.loads(plan.workers[1].environment["TF_CONFIG"])["cluster"]
        assert len({*cluster["chief"], *cluster["worker"]}) == 2


def test_a_single_worker_needs_no_port(monkeypatch):
    monkeypatch.setattr(local, "free_ports", lambda count: pytest.fail("no port is needed"))
    assert len(local.plan(job()).workers) == 1


def test_this_machine_runs_up_to_256_workers(monkeypatch):
    monkeypatch.setattr(local, "free_ports", lambda count: range(20_000, 20_000 + count))
    assert len(local.plan(job(workers=256)).workers) == 256
    with pytest.raises(UserError, match="--workers must be at most 256 with --target=local, got 257"):
        local.plan(job(workers=257))


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("nvidia-smi", 20), PermissionError()])
def test_a_driver_that_does_not_answer_counts_as_none(monkeypatch, tmp_path, error):
    limits = []

    def run(command, *, timeout, **options):
        limits.append(timeout)
        raise error

    monkeypatch.setattr(local, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(local.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(local.subprocess, "run", run)
    assert local.visible_gpus({}) == ()
    assert 1 < limits[0] < 60


def test_a_driver_that_fails_counts_as_none(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    tool.chmod(0o755)
    monkeypatch.setattr(local, "_DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.visible_gpus({}) == ()
