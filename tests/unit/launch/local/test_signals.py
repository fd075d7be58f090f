"""The signals of a supervising process."""

import os
import signal

import pytest

from launch.local import signals
from tests.support import descriptors

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handled():
    """Lets no signal be ignored from the start, as SIGHUP is where nohup has started the tests."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def read(descriptor):
    try:
        return list(os.read(descriptor, 100))
    except BlockingIOError:
        return []


def test_signals_arrive_as_numbers_and_only_in_the_block():
    before = [signal.getsignal(number) for number in NUMBERS]
    count = descriptors.count()
    with signals.arriving() as arrived:
        assert read(arrived) == []
        for number in NUMBERS:
            signal.raise_signal(number)
        assert read(arrived) == list(NUMBERS)
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert descriptors.count() == count


def test_a_signal_that_the_process_was_told_to_ignore_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As nohup does.
    try:
        with signals.arriving() as arrived:
            signal.raise_signal(signal.SIGHUP)
            assert read(arrived) == []
            signal.raise_signal(signal.SIGINT)
            assert read(arrived) == [signal.SIGINT]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_more_signals_than_the_pipe_holds_are_no_error(capfd):
    with signals.arriving() as arrived:
        writing = os.open(f"/proc/self/fd/{arrived}", os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, bytes(1 << 16))
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"\0")
        signal.raise_signal(signal.SIGTERM)
        os.close(writing)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("parent", "exits"), [(7, []), (1, [143])])
def test_a_worker_ends_with_its_supervisor_even_if_that_has_ended_already(monkeypatch, parent, exits):
    asked: list[int] = []
    ended: list[int] = []
    monkeypatch.setattr(signals.parent_death, "request_signal", asked.append)
    monkeypatch.setattr(signals.os, "getppid", lambda: parent)
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    signals.end_with(7)
    assert asked == [signal.SIGTERM]
    assert ended == exits
