"""The cores that a process may run on. Only Linux can limit them; elsewhere a process runs on all."""

import os
import sys
from collections.abc import Iterable


def allowed_cores() -> set[int]:
    """Returns the cores that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def limit_to(cores: Iterable[int]) -> None:
    """Limits this process, and those that it starts, to some cores; does nothing outside Linux."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
