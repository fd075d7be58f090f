"""What all targets print with."""

import datetime
import io
import os
import sys

import pytest

from launch import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (100, "2m"),
        (3599, "60m"),
        (3600, "1h"),
        (86399, "24h"),
        (86400, "1d"),
        (10 * 86400, "10d"),
    ],
)
def test_an_age_has_one_unit(monkeypatch, seconds, text):
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            assert tz is datetime.UTC
            return now

    monkeypatch.setattr(console.datetime, "datetime", Clock)
    assert console.age(now - datetime.timedelta(seconds=seconds)) == text


def test_a_table_is_aligned_to_the_left(capsys):
    console.print_table([("NAME", "WORKERS", "AGE"), ("a", "10", "5m"), ("longer", "2", "100d")])
    assert capsys.readouterr().out == "NAME    WORKERS  AGE\na       10       5m\nlonger  2        100d\n"


def test_a_message_goes_to_stderr(capsys):
    console.tell("one")
    assert capsys.readouterr() == ("", "launch: one\n")


def test_output_of_workers_is_written_at_once_and_unchanged(monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "wb") as binary, io.TextIOWrapper(binary) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        console.write(b"\xff\r")
        assert os.read(reading, 100) == b"\xff\r"
    os.close(reading)


def test_output_ends_the_command_silently_when_its_reader_leaves(monkeypatch):
    class Gone:
        def write(self, data):
            raise BrokenPipeError

    codes: list[int] = []
    monkeypatch.setattr(sys, "stdout", type("Stdout", (), {"buffer": Gone()}))
    monkeypatch.setattr(console.os, "_exit", codes.append)
    console.write(b"one")
    assert codes == [0]
