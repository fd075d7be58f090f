import platform
import subprocess
import sys

import pytest

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
