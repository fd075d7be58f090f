"""How far a loop has come, for a person and for a log."""

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
    assert list(progress.progress("abc", total=3, what="reading")) == list("abc")
    assert "reading: 100%" in capsys.readouterr().err
