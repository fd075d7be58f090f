"""Descriptors of processes, and the error where a system has none."""

import os
import signal
import subprocess
import sys

import pytest

from launch.job import Location
from launch.local import pidfd, state, supervisor
from launch.local.commands import cancel
from launch.local.processes import Spec, Worker
from tests.support import descriptors
from trainer.errors import UserError

NEEDS_LINUX = "^--target=local needs Linux: use a Linux machine, or train with one worker by python -m trainer.task$"


def test_a_signal_reaches_the_process_of_a_descriptor():
    with subprocess.Popen(["sleep", "60"]) as process:
        descriptor = pidfd.open_process(process.pid)
        pidfd.send_signal(descriptor, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        pidfd.send_signal(descriptor, signal.SIGTERM)
    os.close(descriptor)


def test_a_linux_machine_is_supported_and_no_descriptor_stays_open():
    before = descriptors.count()
    pidfd.check_supported()
    assert descriptors.count() == before


def elsewhere(monkeypatch, name):
    if name == "an old Linux":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.parametrize("system", ["macOS", "an old Linux"])
def test_a_job_elsewhere_than_on_linux_is_refused_before_a_worker_starts(monkeypatch, system):
    elsewhere(monkeypatch, system)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a worker was started"))
    with pytest.raises(UserError, match=NEEDS_LINUX):
        supervisor.supervise(Spec(job_id="film-1", workers=(Worker(command=("true",)),), restarts=0, grace_period=1.0))


@pytest.mark.parametrize("system", ["macOS", "an old Linux"])
def test_cancel_elsewhere_than_on_linux_says_so(monkeypatch, tmp_path, system):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with state.recording("film-1", 1):
        elsewhere(monkeypatch, system)
        with pytest.raises(UserError, match=NEEDS_LINUX):
            cancel("film-1", Location())


def test_a_signal_elsewhere_than_on_linux_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=NEEDS_LINUX):
        pidfd.send_signal(0, signal.SIGTERM)
