"""The kernel's signal at the death of the parent process."""

import ctypes
import signal
import sys

import pytest

from trainer.process import parent_death

_PR_GET_PDEATHSIG = 2  # From linux/prctl.h.


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is a call of Linux")
def test_the_kernel_knows_the_request():
    def requested():
        number = ctypes.c_int(-1)
        ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
        return number.value

    before = requested()
    try:
        parent_death.request_signal(signal.SIGURG)
        assert requested() == signal.SIGURG
    finally:
        parent_death.request_signal(before)
    assert requested() == before


def test_a_system_without_such_a_signal_is_left_alone(monkeypatch):
    monkeypatch.setattr(parent_death, "_libc", None)
    parent_death.request_signal(signal.SIGTERM)
