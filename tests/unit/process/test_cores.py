"""How many processor cores a command may use."""

import os

import pytest

from trainer.process import cores


def test_the_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7} if pid == 0 else set(), raising=False)
    assert cores.available() == 3


@pytest.mark.parametrize(("known", "count"), [(8, 8), (None, 1)])
def test_where_the_system_has_no_affinity_all_cores_count(monkeypatch, known, count):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: known)
    assert cores.available() == count
