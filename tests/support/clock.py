"""Time that passes only while somebody sleeps, so that a test of a minute's wait takes no time."""

import pytest


class Clock:
    """Stands in for the module `time`.

    Attributes:
      now: the present time in seconds.
      pauses: how long each sleep took, in seconds.
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.pauses: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def for_retries(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Returns a clock for the retries of Google's client, each of which now pauses as long as its randomness allows."""
    from google.api_core.retry import retry_base, retry_unary

    clock = Clock()
    for module in (retry_base, retry_unary):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(retry_base.random, "uniform", lambda _, most: most)
    return clock
