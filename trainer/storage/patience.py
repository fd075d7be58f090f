"""Read-ahead of TensorFlow's Cloud Storage client, and the retries of that client and of Google's.

TensorFlow reads these environment variables once, when it is imported; Google's client gets the same values from here. A variable
that the user has set applies to both.
"""

import os
from dataclasses import dataclass

from trainer.errors import UserError

_DEFAULTS = {
    # Every open file holds one block in memory. TensorFlow's default of 64 MiB needs a gibibyte for 16 shards. 16 MiB were as fast,
    # 4 MiB slower (benchmarks/storage_memory.py).
    "GCS_READ_CACHE_BLOCK_SIZE_MB": "16",
    # A request that gets no data for this many seconds is aborted and retried. Cloud Storage's slowest answers take less.
    "GCS_REQUEST_IDLE_TIMEOUT_SECS": "15",
    # Pauses of 0.5, 1, 2, … 32 s: one minute in total, three if each try hangs. TensorFlow may go through them three
    # times to close a file, and holds the interpreter's lock meanwhile. That must end before the guard kills the worker
    # (--stall_timeout).
    "GCS_RETRY_CONFIG_MAX_RETRIES": "7",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "500000",
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "32000000",
    # TensorFlow would cache file attributes for five seconds, while Google's client and other workers change the files.
    "GCS_STAT_CACHE_MAX_AGE": "0",
}


def set_defaults() -> None:
    """Sets the variables that are not set yet. Call it before TensorFlow is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Patience:
    """The limits that the variables set, in seconds.

    Attributes:
      idle: the time without a byte after which a request is aborted.
      first_pause: the pause before the second try; it doubles before each further try.
      longest_pause: the longest pause between two tries.
      deadline: the time after which there is no further try: all pauses, plus one idle time for each.
    """

    idle: float
    first_pause: float
    longest_pause: float
    deadline: float


def patience() -> Patience:
    """Returns the limits that the environment variables set.

    Raises:
      UserError: a variable is not a number.
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
        raise UserError(f"the environment variable {name} must be a number, got {os.environ[name]!r}") from None
