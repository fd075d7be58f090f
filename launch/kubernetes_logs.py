"""Follows the logs of a job's workers, from one pod of a worker to the next."""

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from launch.kubernetes_api import Api, NotFound, NotReady, Pod
from launch.merging import Lines
from trainer.errors import Ended, LostService

_T = TypeVar("_T")

# Seconds: between two looks at a job, and that an API may be away while its job is followed.
POLL = 2.0
PATIENCE = 300.0


def follow(api: Api, name: str, *, several: bool, is_over: Callable[[], bool]) -> None:
    """Prints what all workers write until the job is over, the pods of one worker one after the other.

    Args:
      api: the cluster.
      name: the job's.
      several: whether lines have the number of their worker before them.
      is_over: whether no pod will follow those there are; it may raise what ends a user's command.

    Raises:
      Ended: the job cannot be followed.
    """
    workers: dict[int, _Worker] = {}
    seen: set[str] = set()
    patient = Patience()
    while True:
        over = patient.ask(is_over)
        for pod in patient.ask(lambda: api.pods(name)) or ():
            if pod.uid not in seen:
                seen.add(pod.uid)
                if pod.index not in workers:
                    workers[pod.index] = _Worker(api, name, Lines(f"[{pod.index}] " if several else ""))
                workers[pod.index].add(pod)
        for worker in workers.values():
            if worker.failure:
                raise worker.failure
        if over and not any(worker.is_busy for worker in workers.values()):
            return
        time.sleep(POLL)


class Patience:
    """Asks a cluster again and again, and bears with one that does not answer for a while."""

    def __init__(self) -> None:
        self._lost_since: float | None = None

    def ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer, or None where there was none.

        Raises:
          LostService: there has been none for too long.
        """
        try:
            answer = question()
        except LostService as error:
            now = time.monotonic()
            if self._lost_since is None:
                self._lost_since = now
                print(f"launch: {error}; trying on", file=sys.stderr)
            if now - self._lost_since > PATIENCE:
                raise
            return None
        self._lost_since = None
        return answer


class _Worker:
    """The logs of one worker's pods, in a thread that ends with the process."""

    def __init__(self, api: Api, name: str, lines: Lines) -> None:
        self.failure: Ended | None = None
        self._api, self._name, self._lines = api, name, lines
        self._pods: collections.deque[Pod] = collections.deque()
        self._wake = threading.Semaphore(0)
        self._left = 0
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, pod: Pod) -> None:
        self._left += 1
        self._pods.append(pod)
        self._wake.release()

    @property
    def is_busy(self) -> bool:
        return self._left > 0 and self.failure is None

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            try:
                self._print(self._pods.popleft())
            except Ended as end:
                self.failure = end
                return
            self._left -= 1

    def _print(self, pod: Pod) -> None:
        last = b""
        patient = Patience()
        while True:
            # Once it had ended before its log was read to the end, there is no more of it.
            had_ended = patient.ask(lambda: self._has_ended(pod))
            with contextlib.suppress(NotReady, LostService):
                try:
                    with self._api.log(pod.name, follow=not had_ended) as pieces:
                        last = self._print_lines(pieces, last)
                except NotFound:
                    had_ended = True
            if had_ended:
                _write(self._lines.end())
                return
            time.sleep(POLL)

    def _print_lines(self, pieces: Iterable[bytes], last: bytes) -> bytes:
        """Prints the lines that came after a time; returns the last one's."""
        printed, rest = last, b""
        try:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    moment, _, text = line.partition(b" ")
                    # The log is read again from its beginning where the connection broke.
                    if moment.removesuffix(b"Z") > printed:
                        last = moment.removesuffix(b"Z")
                        _write(self._lines.feed(text + b"\n"))
        except OSError:  # The connection broke.
            pass
        except Exception as error:
            # urllib3's own, which is imported with the client alone.
            if type(error).__module__.partition(".")[0] != "urllib3":
                raise
        return last

    def _has_ended(self, pod: Pod) -> bool:
        return all(each.has_ended for each in self._api.pods(self._name) if each.uid == pod.uid)


_output = threading.Lock()


def _write(data: bytes) -> None:
    with _output:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # Nobody reads along any more; the job goes on.
            os._exit(0)
