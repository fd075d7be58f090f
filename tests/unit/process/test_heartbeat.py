"""Heartbeats arrive in the guard's pipe, and never hinder the worker."""

import os

import pytest

from trainer.process import heartbeat


@pytest.fixture
def pipe(monkeypatch):
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    monkeypatch.setenv(heartbeat.VARIABLE, str(writer))
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def test_each_sign_arrives_and_differs_from_the_others(pipe):
    for signs in ((), (heartbeat.STEP,), (heartbeat.CONNECTING,), (heartbeat.OTHER,)):
        heartbeat.beat(*signs)
    said = os.read(pipe[0], 100)
    assert said == b"." + b"s" + b"c" + b"."


def test_a_guard_that_does_not_read_does_not_hinder_the_worker(pipe):
    beats = 100_000  # More than a pipe holds.
    for _ in range(beats):
        heartbeat.beat()
    assert 0 < len(os.read(pipe[0], beats)) < beats


def test_without_a_guard_nothing_happens(monkeypatch):
    monkeypatch.delenv(heartbeat.VARIABLE, raising=False)
    heartbeat.beat(heartbeat.STEP)
    monkeypatch.setenv(heartbeat.VARIABLE, "")
    heartbeat.beat(heartbeat.STEP)
