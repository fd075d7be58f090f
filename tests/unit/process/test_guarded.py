"""What a worker asks of the system when it has a guard."""

import faulthandler
import os
import signal
import sys

import pytest

from trainer.process import guarded, parent_death

SELF, GUARD = 4000, 3000


@pytest.fixture
def asked(monkeypatch):
    """A worker that its guard has just started; returns what it asks of the system, in order."""
    asked: list[object] = []

    def parent():
        asked.append("who is my parent?")
        return GUARD

    monkeypatch.setenv(guarded.VARIABLE, str(GUARD))
    monkeypatch.setattr(os, "getpid", lambda: SELF)
    monkeypatch.setattr(os, "getsid", lambda pid: SELF if pid == 0 else 1)
    monkeypatch.setattr(os, "getppid", parent)
    monkeypatch.setattr(os, "kill", lambda pid, number: asked.append(("kill", pid, number)))
    monkeypatch.setattr(faulthandler, "register", lambda number, **options: asked.append(("stacks", number, options)))
    monkeypatch.setattr(parent_death, "request_signal", lambda number: asked.append(("die with it", number)))
    return asked


STACKS = ("stacks", signal.SIGQUIT, {"all_threads": True, "chain": False})
DIE = ("die with it", signal.SIGKILL)


def test_a_worker_prints_its_stacks_on_request_and_dies_with_its_guard(asked):
    guarded.under_guard()
    # A guard that dies before the request sends no signal, so the parent is looked up after it.
    assert asked == [STACKS, DIE, "who is my parent?"]


def test_a_worker_whose_guard_died_before_the_request_kills_itself(asked, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    guarded.under_guard()
    assert asked == [STACKS, DIE, ("kill", SELF, signal.SIGKILL)]


def test_a_worker_without_stderr_has_nowhere_to_print_its_stacks(asked, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    guarded.under_guard()
    assert asked == [DIE, "who is my parent?"]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_guard_a_worker_asks_nothing(asked, monkeypatch, value):
    monkeypatch.delenv(guarded.VARIABLE) if value is None else monkeypatch.setenv(guarded.VARIABLE, value)
    guarded.under_guard()
    assert asked == []


def test_a_child_of_the_worker_that_calls_the_same_code_has_no_guard(asked, monkeypatch):
    monkeypatch.setattr(os, "getsid", lambda pid: GUARD)
    guarded.under_guard()
    assert asked == []
