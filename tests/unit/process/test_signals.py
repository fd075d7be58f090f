"""A request to stop: what ends at once, and what may finish its step first."""

import signal
import types

import pytest

from trainer.errors import Stopped
from trainer.process import signals

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def clock(monkeypatch):
    """The time that the module sees, in seconds; a test sets it."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(signals, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def stop(clock):
    handlers = {number: signal.getsignal(number) for number in (TERM, INT)}
    yield signals.StopRequest()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_outside_training_ends_the_process_at_once(stop, number):
    with pytest.raises(Stopped, match=f"^asked to stop by {number.name}; the same command goes on from the last backup$"):
        signal.raise_signal(number)
    assert stop.requested


@pytest.mark.parametrize("number", [TERM, INT])
def test_in_training_a_signal_is_noticed_where_the_loop_looks(stop, number):
    with stop.deferred():
        stop.check()
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(Stopped, match=r"^asked to stop; the same command goes on from the last backup$"):
            stop.check()


def test_a_second_request_ends_training_at_once(stop, clock):
    with stop.deferred():
        signal.raise_signal(TERM)
        clock.now += 0.26
        with pytest.raises(Stopped, match="by SIGINT;"):
            signal.raise_signal(INT)


def test_a_signal_that_a_wrapper_repeats_within_a_quarter_of_a_second_is_the_same_request(stop, clock):
    with stop.deferred():
        signal.raise_signal(INT)
        clock.now += 0.125
        signal.raise_signal(TERM)
        clock.now += 0.125
        signal.raise_signal(INT)
        clock.now += 0.125
        with pytest.raises(Stopped):  # The time counts from the first.
            signal.raise_signal(INT)


def test_after_training_a_signal_ends_the_process_at_once_again(stop):
    with pytest.raises(KeyError), stop.deferred():
        raise KeyError
    with pytest.raises(Stopped):
        signal.raise_signal(TERM)


def test_a_part_of_training_without_anything_to_save_ends_at_once(stop):
    with stop.deferred():
        with pytest.raises(Stopped, match="by SIGTERM"), stop.at_once():
            signal.raise_signal(TERM)
        # What follows the part may finish its step again.
        signal.raise_signal(TERM)


def test_a_part_that_ends_at_once_does_not_begin_after_a_request(stop):
    with stop.deferred():
        signal.raise_signal(TERM)
        with pytest.raises(Stopped, match=r"^asked to stop; "), stop.at_once():
            pytest.fail("began")


def test_a_part_that_ends_at_once_changes_nothing_outside_training(stop):
    with stop.at_once():
        pass
    with pytest.raises(Stopped):
        signal.raise_signal(TERM)


def test_the_signals_arrive_again_after_tensorflow_has_taken_them(stop):
    for number in (TERM, INT):
        signal.signal(number, signal.SIG_IGN)
    stop.listen()
    for number in (TERM, INT):
        with pytest.raises(Stopped):
            signal.raise_signal(number)
