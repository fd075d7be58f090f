"""The spec of a job on this machine, and the parts of its supervisor."""

import json
import socket
import sys

import pytest

from launch.job import Job, parse_settings
from launch.local import spec as local
from launch.local import supervisor
from launch.log_lines import MAX_LINE, Lines, NonBlockingWriter
from trainer.errors import UserError

ARGUMENTS = ("--data_dir=d", "--job_dir=j", "--grace_period=7")


def job(**fields):
    return Job(**({"arguments": ARGUMENTS} | fields))


def specify(job, *, ports=(20001, 20002, 20003), gpus=()):
    return local.specify(job, job_id="poster-1", ports=ports[: job.workers], gpus=gpus)


def variables(spec, name):
    return [worker.environment.get(name) for worker in spec.workers]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "--name must be .*, got ''"),
        ({"name": "Film"}, "--name must be .*, got 'Film'"),
        ({"name": "a" * 41}, "--name must be .*, got 'a"),
        ({"name": "film-"}, "--name must be .*, got 'film-'"),
        ({"name": "film\n"}, r"--name must be .*, got 'film\\n'"),
        ({"workers": 0}, "--workers must be at least 1 .*, got 0"),
        ({"restarts": -1}, "--restarts must be at least 0 .*, got -1"),
        ({"time_limit": 0.0}, "--time_limit must be .*, got 0"),
        ({"time_limit": float("inf")}, "--time_limit must be .*, got inf"),
        ({"time_limit": float("nan")}, "--time_limit must be .*, got nan"),
        ({"env": {"2X": "y"}}, "--env=2X=… is not a valid variable name"),
        ({"env": {"": "y"}}, "--env==… is not a valid variable name"),
        ({"env": {"TF_CONFIG": "{}"}}, "--env=TF_CONFIG=… is set by the launcher"),
        ({"env": {"POSTER_JOB_ID": "mine"}}, "--env=POSTER_JOB_ID=… is set by the launcher"),
        ({"arguments": ()}, "--data_dir is missing"),
        ({"arguments": ("--data_dir=d",)}, "--job_dir is missing"),
        ({"arguments": (*ARGUMENTS, "--modle=cnn")}, "after --: .*'modle'"),
        ({"arguments": (*ARGUMENTS, "--model=vgg")}, "after --: --model must be one of cnn, .*got 'vgg'"),
        ({"arguments": (*ARGUMENTS, "--epochs=soon")}, "after --: --epochs must be a whole number, got 'soon'"),
        ({"arguments": (*ARGUMENTS, "--epochs=0")}, "after --: --epochs must be at least 1, got 0"),
        ({"arguments": (*ARGUMENTS, "--workers=2")}, "after --: .*'workers'"),
        ({"arguments": (*ARGUMENTS, "train")}, "after --: 'train' is not a flag"),
        ({"arguments": (*ARGUMENTS, "--", "train")}, "after --: 'train' is not a flag"),
        ({"arguments": (*ARGUMENTS, "--strategy=mirrored"), "workers": 2}, "--strategy=mirrored supports one worker"),
    ],
)
def test_the_error_of_a_wrong_field_names_its_value_and_the_remedy(fields, says):
    with pytest.raises(UserError, match=says):
        job(**fields)


def test_a_job_parses_the_flags_of_its_workers():
    described = job(arguments=(*ARGUMENTS, "--epochs", "3", "--fresh"), workers=2)
    assert (described.training.epochs, described.training.fresh, described.training.grace_period) == (3, True, 7.0)
    assert specify(described).grace_period == 7.0
    job(arguments=(*ARGUMENTS, "--strategy=mirrored"))


def test_variables_are_read_up_to_their_first_equals_sign():
    assert parse_settings("env", ["A=b=c", "B=", "A=d"]) == {"A": "d", "B": ""}
    with pytest.raises(UserError, match="--env=A has no value"):
        parse_settings("env", ["A"])


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


def test_delays_double_and_are_reset_after_a_long_run():
    delays = [0.0]
    for _ in range(7):
        delays.append(supervisor.next_delay(delays[-1], ran=5.0))
    assert delays[1:] == [1, 2, 4, 8, 16, 30, 30]
    assert supervisor.next_delay(30.0, ran=59.0) == 30
    assert supervisor.next_delay(30.0, ran=60.0) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (2, "the user must"),
        (75, "lost a peer"),
        (143, "asked to stop"),
        (137, "killed by SIGKILL"),
        (139, "SIGSEGV"),
        (1, "a crash"),
        (255, "a crash"),
    ],
)
def test_an_exit_code_is_explained(code, text):
    assert text in supervisor.meaning(code)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\n"], b"[0] a\n[0] b\n"),
        ([b"a", b"b\nc", b"\n"], b"[0] ab\n[0] c\n"),
        ([b"a\n\nb"], b"[0] a\n[0] \n[0] b\n"),
        ([b"a\r\nb\r", b"\n"], b"[0] a\n[0] b\n"),
        ([b"10%\r20%\r30%\n"], b"[0] 30%\n"),
        ([b"\r10%", b"\r20%", b"\r", b"30%"], b"[0] 30%\n"),
        ([b"\r100%", b"\r    \r", b"done\n"], b"[0] done\n"),
        ([b"100%\r    \r", b"\n"], b"[0] 100%\n"),
        ([b"\xff\xfe\n"], b"[0] \xff\xfe\n"),
        ([b""], b""),
        ([b"a\n", b"\r"], b"[0] a\n"),
    ],
)
def test_output_becomes_whole_lines(pieces, lines):
    merged = Lines("[0] ")
    assert b"".join(map(merged.feed, pieces)) + merged.end() == lines


def test_an_endless_progress_bar_takes_no_memory():
    merged = Lines("[0] ")
    for number in range(10_000):
        merged.feed(b"\r%5d/10000 [====>    ]" % number)
    assert len(merged._rest) < 100


def test_an_endless_line_is_split_between_two_characters():
    merged = Lines("[0] ")
    text = "é" * MAX_LINE
    found = merged.feed(b"x" + text.encode()) + merged.end()
    lines = found.decode().splitlines()
    assert len(lines) == 3
    assert "".join(line.removeprefix("[0] ") for line in lines) == "x" + text


def test_without_a_prefix_output_passes_through_unchanged():
    merged = Lines("")
    pieces = [b"\r10%", b"\r20%", b"\n", b"no end"]
    assert [merged.feed(piece) for piece in pieces] == pieces
    assert (merged.end(), merged.end()) == (b"\n", b"")


def test_output_without_a_reader_is_bounded(tmp_path):
    output = NonBlockingWriter(-1)
    for _ in range(100):
        output.write(bytes(1 << 20))
    assert output.is_full
    assert output.lost > 80 << 20
    lost = output.lost
    output.send()  # To an invalid descriptor.
    assert not output.is_pending
    assert output.lost > lost
