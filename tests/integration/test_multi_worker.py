"""Several workers: training is the same for every number of them, or of replicas. If they cannot train, they exit by contract."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import ENVIRONMENT, REPOSITORY, interrupt, run, start
from tests.support.jobs import history, mirrored, tensors, train

LONG = pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")

# With a learning rate so low that rounding differences from another order of summation do not grow.
OPTIONS = ("--learning_rate=0.0001", "--batch_size=16", "--epochs=2", "--backup_steps=2")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def environment_of(ports: list[int], index: int) -> dict[str, str]:
    """Returns the environment of one of several workers."""
    task = {"type": "worker", "index": index}
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return {**ENVIRONMENT, "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}), "POSTER_JOB_ID": "job"}


def guarded(
    data_dir: Path, job_dir: Path, ports: list[int], index: int, *options: str, prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Starts a worker's guard."""
    command = (*prefix, sys.executable, "-m", "trainer.guard", *train(data_dir, job_dir, *options)[1:])
    return subprocess.Popen(
        command, env=environment_of(ports, index), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launched(data_dir: Path, job_dir: Path, workers: int, *options: str) -> subprocess.Popen[str]:
    """Starts a job with several workers on this machine."""
    flags = train(data_dir, job_dir, *OPTIONS, *options)[1:]
    return start("launch", "--target=local", f"--workers={workers}", "--", *flags)


def finished(process: subprocess.Popen[str]) -> str:
    """Waits for a job to succeed, and returns its output."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out + err


def has_backup(job_dir: Path, step: int) -> bool:
    """Returns whether a job has a backup of this step or a later one."""
    return any(int(path.stem.rpartition("-")[2]) >= step for path in (job_dir / "backup").glob("ckpt-*.index"))


def assert_alike(one: Path, other: Path) -> None:
    """Asserts that two jobs have equal results, within the tolerance of floats that are summed in another order."""
    for first, second in zip(history(one), history(other), strict=True):
        for name in ("loss", "val_loss"):
            assert float(first[name]) == pytest.approx(float(second[name]), rel=1e-3)
        assert first["step"] == second["step"]
    first_tensors, second_tensors = tensors(one / "checkpoints" / "last"), tensors(other / "checkpoints" / "last")
    for name, value in first_tensors.items():
        if name.startswith("layers/") and isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, second_tensors[name], rtol=0.01, atol=2e-3, err_msg=name)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """A job on one worker."""
    folder = tmp_path_factory.mktemp("alone") / "job"
    finished(launched(data_dir, folder, 1))
    return folder


@pytest.mark.parametrize("numbers", [(2, 1), pytest.param((2, 1, 4), marks=LONG)])
def test_a_job_resumes_with_another_number_of_workers(alone, data_dir, tmp_path, numbers):
    folder = tmp_path / "job"
    stops = (4, 8)
    for number, step in zip(numbers[:-1], stops, strict=False):
        process = launched(data_dir, folder, number)
        reached = functools.partial(has_backup, folder, step)
        assert interrupt(process, signal.SIGINT, when=reached) == 143
    log = finished(launched(data_dir, folder, numbers[-1]))
    assert f"training goes on with {numbers[-1]}: each step has the same films" in log
    assert_alike(alone, folder)


def test_two_mirrored_replicas_train_as_one_device_does(alone, data_dir, tmp_path):
    ended = run(*mirrored(data_dir, tmp_path / "job", *OPTIONS, replicas=2))
    assert "strategy mirrored (--strategy=mirrored), 2 replica(s)" in ended.stderr
    assert_alike(alone, tmp_path / "job")


@LONG
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_several_workers_train_as_one_worker_does(alone, data_dir, tmp_path, workers):
    log = finished(launched(data_dir, tmp_path / "job", workers))
    assert f"{workers} replica(s)" in log
    assert_alike(alone, tmp_path / "job")


@LONG
@pytest.mark.parametrize("workers", [2, 3])
def test_validation_on_several_workers_gives_the_metrics_of_one(data_dir, tmp_path, workers):
    # The weights stay at their initial values, so that only evaluation could change the metrics.
    options = ("--model=cnn", "--learning_rate=0", "--weight_decay=0", "--epochs=1", "--max_steps=1", "--batch_size=12")
    for number in (1, workers):
        finished(launched(data_dir, tmp_path / str(number), number, *options))
    (one,), (several,) = history(tmp_path / "1"), history(tmp_path / str(workers))
    metrics = [name for name in one if name.startswith("val_")]
    assert len(metrics) == 8
    for name in metrics:
        assert float(one[name]) == pytest.approx(float(several[name]), abs=1e-6)


def test_a_peer_that_never_comes_is_named_by_every_worker(data_dir, tmp_path):
    ports = free_ports(3)
    guards = [
        guarded(data_dir, tmp_path / "job", ports, index, "--peer_timeout=4", "--rejoin=0", "--batch_size=15") for index in (0, 2)
    ]
    for process in guards:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 75, err
        assert re.search(rf"worker\(s\) .*\b1 \(127.0.0.1:{ports[1]}\).* did not come within 4 s", err)
    assert not (tmp_path / "job" / "checkpoints").exists()


@pytest.mark.parametrize("as_process_1", [False, True])
def test_a_worker_that_hangs_in_tensorflow_is_gone_within_the_grace_period(data_dir, tmp_path, as_process_1):
    """Its peer answered and then died: TensorFlow waits for it, holds the GIL, and reacts to no signal."""
    prefix: tuple[str, ...] = ()
    if as_process_1:
        prefix = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
        if os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("making a process 1 needs root and unshare")
    ports = free_ports(2)
    with socket.create_server(("127.0.0.1", ports[1])):
        process = guarded(data_dir, tmp_path / "job", ports, 0, "--grace_period=2", prefix=prefix)
        assert process.stderr is not None
        for line in process.stderr:
            if "all 2 workers answer" in line:
                break
        time.sleep(3)
        assert process.poll() is None
        asked = time.monotonic()
        # The signal would just kill unshare itself. Its child, process 1 there, is the guard.
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]) if as_process_1 else process.pid
        os.kill(pid, signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 143, rest
        assert time.monotonic() - asked < 2 + 2
    assert "did not stop within --grace_period=2 seconds" in rest


def test_workers_with_different_commands_are_refused(data_dir, tmp_path):
    ports = free_ports(2)
    guards = [guarded(data_dir, tmp_path / "job", ports, index, f"--backup_steps={5 + index}", "--rejoin=0") for index in (0, 1)]
    for process in guards:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert "error: worker(s) 1 have other flags or another data set than the chief" in err


def test_a_job_directory_belongs_to_one_job_and_its_restart_takes_over_at_once(data_dir, tmp_path):
    folder = tmp_path / "job"
    first = {**ENVIRONMENT, "POSTER_JOB_ID": "first"}
    command = train(data_dir, folder, "--model=cnn", "--epochs=50")
    running = start(*command, env=first)

    def backed_up() -> bool:
        return (folder / "backup" / "checkpoint").exists()

    try:
        while not backed_up():
            assert running.poll() is None
            time.sleep(0.05)
        second = start(*command, env={**ENVIRONMENT, "POSTER_JOB_ID": "second"})
        _, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "belongs to job first" in err
    finally:
        running.kill()
        running.communicate(timeout=60)
    again = start(*command, env=first)
    assert again.stderr is not None
    began = time.monotonic()
    for line in again.stderr:
        if "restored step" in line:
            break
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 143
    assert time.monotonic() - began < 60, "the lock's age was not waited for"
