"""How TensorFlow's own Cloud Storage client reads ahead, and how long it and Google's try what fails.

TensorFlow reads these variables of the environment once, when it is imported; Google's client is told the same here. Whoever sets
one of them beforehand overrules it for both.
"""

import os
from dataclasses import dataclass

from trainer.errors import UserError

_DEFAULTS = {
    # Every open file holds one block. TensorFlow's 64 MiB make a gibibyte of 16 shards; 16 MiB were no slower, 4 MiB were
    # (benchmarks/storage_memory.py).
    "GCS_READ_CACHE_BLOCK_SIZE_MB": "16",
    # A request that brings nothing for so many seconds is broken off and tried again: Cloud Storage's slowest answers take less.
    "GCS_REQUEST_IDLE_TIMEOUT_SECS": "15",
    # Pauses of 0.5, 1, 2, … 32 s, a minute in all, and three if each try hangs. TensorFlow goes through them up to three times when
    # it closes a file and holds Python's lock: that must end before the guard takes the worker for dead (--stall_timeout).
    "GCS_RETRY_CONFIG_MAX_RETRIES": "7",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "500000",
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "32000000",
    # The other client, and other workers, change files that TensorFlow would believe to know for five seconds.
    "GCS_STAT_CACHE_MAX_AGE": "0",
}


def set_defaults() -> None:
    """Sets the variables that are not set; to be called before TensorFlow is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Patience:
    """What the variables say, in seconds.

    Attributes:
      idle: without a byte, after which a request is broken off.
      first_pause: before the second try; it doubles for each further one.
      longest_pause: between two tries.
      deadline: after which nothing is tried again: all pauses, and as many requests that bring nothing.
    """

    idle: float
    first_pause: float
    longest_pause: float
    deadline: float


def patience() -> Patience:
    """Reads the variables.

    Raises:
      UserError: one is no number.
    """
    idle, retries, first, longest = (
        _number(name)
        for name in (
            "GCS_REQUEST_IDLE_TIMEOUT_SECS",
            "GCS_RETRY_CONFIG_MAX_RETRIES",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US",
            "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US",
        )
    )
    first, longest = first / 1e6, longest / 1e6
    pauses = sum(min(first * 2**retry, longest) for retry in range(int(retries)))
    return Patience(idle, first, longest, pauses + retries * idle)


def _number(name: str) -> float:
    try:
        return float(os.environ[name])
    except ValueError:
        raise UserError(f"the environment has {name}={os.environ[name]}, which is no number: mend it, or leave it out") from None
