import ctypes
import platform
import subprocess
import sys
import types

import pytest

from trainer.process import allocation

_PAGES_OF_FIFTY_BATCHES = """
import resource
from trainer.process import allocation

def batch():
    return [bytes([1]) * 74_000 for _ in range(64)]

{}
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _pages(statement: str) -> int:
    command = [sys.executable, "-c", _PAGES_OF_FIFTY_BATCHES.format(statement)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_batches_that_come_and_go_stay_in_the_same_pages():
    assert _pages("") > 10_000
    assert _pages("allocation.keep_freed_memory()") < 500


def test_the_request_has_the_numbers_of_glibcs_malloc_h(monkeypatch):
    asked: list[tuple[int, int]] = []
    library = types.SimpleNamespace(mallopt=lambda parameter, value: asked.append((parameter, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    allocation.keep_freed_memory()
    assert asked == [(-1, 2_147_483_647)]  # M_TRIM_THRESHOLD, INT_MAX


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    allocation.keep_freed_memory()
