"""The pool of decoding processes without processes, which take a second to start."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from trainer.preparation import decoding


class Pool:
    """Stands in for ProcessPoolExecutor: works when a result is asked for, in this process.

    Attributes:
      processes: the number of processes that it would have.
      options: the other arguments.
      batches: the sizes of the batches.
      most_waiting: the largest number of batches that waited at the same time.
      failure: an error that ends each batch.
      shutdowns: the arguments of each shutdown.
    """

    failure: BaseException | None = None

    def __init__(self, processes: int, **options: Any) -> None:
        self.processes, self.options = processes, options
        self.batches: list[int] = []
        self.most_waiting = self._waiting = 0
        self.shutdowns: list[dict[str, bool]] = []

    def submit(self, work: Callable[[Sequence[Any]], list[Any]], images: Sequence[Any]) -> "Future[list[Any]]":
        self.batches.append(len(images))
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        pool = self

        class Lazy(Future):
            def result(self, timeout: float | None = None) -> list[Any]:
                pool._waiting -= 1
                if pool.failure:
                    raise pool.failure
                return work(images)

        return Lazy()

    def shutdown(self, **options: bool) -> None:
        self.shutdowns.append(options)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def decoding_pool(monkeypatch: pytest.MonkeyPatch, *, cores: int = 2, failure: BaseException | None = None) -> list[Pool]:
    """Replaces the pool of `decoding` for the duration of a test.

    Args:
      monkeypatch: pytest's fixture.
      cores: the number of cores that decoding finds.
      failure: an error that ends each batch.

    Returns:
      The pools that have been made, which grows.
    """
    made: list[Pool] = []

    def make(processes: int, **options: Any) -> Pool:
        made.append(Pool(processes, **options))
        made[-1].failure = failure
        return made[-1]

    monkeypatch.setattr(decoding, "ProcessPoolExecutor", make)
    monkeypatch.setattr(decoding.cores, "available", lambda: cores)
    return made
