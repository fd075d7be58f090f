"""How far a loop has come, for a person and for a log."""

import os
import shutil
import sys

import pytest

from trainer.process import progress


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    seconds = iter(range(0, 10_000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    assert list(progress.progress("abcdef", total=6, what="reading")) == list("abcdef")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 3 of 6",
        "reading: 5 of 6",
        "reading: 6 of 6 in 28.0 s, 0 a second",
    ]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    assert list(progress.progress(iter("abc"), total=3, what="reading")) == list("abc")
    assert "reading: 100%" in capsys.readouterr().err


def test_a_loop_without_items_and_without_time_has_its_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 1000.0)
    assert list(progress.progress([], total=0, what="reading")) == []
    assert capsys.readouterr().err == "reading: 0 of 0 in 0.0 s, 0 a second\n"


def test_a_bar_fits_a_terminal_that_does_not_know_its_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((70, 9)))
    with progress.bar(["a", "b"], desc="reading") as bar:
        assert (bar.ncols, bar.nrows, bar.total, bar.desc) == (70, 9, 2, "reading")
        assert bar.fp == sys.stderr
    with progress.bar(total=5) as bar:
        bar.update(5)
    assert "5/5" in capsys.readouterr().err
