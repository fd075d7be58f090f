"""Follows the logs of a job's workers, from one pod of a worker to the next."""

import collections
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from launch.console import Patience, tell, write
from launch.kubernetes.api import Api, NotFound, NotReady, Pod
from launch.log_lines import Lines
from trainer.errors import LostService

# Seconds between two looks at a job.
POLL = 2.0


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
    told: dict[str, str] = {}
    patient = Patience()
    while True:
        over = patient.ask(is_over)
        for pod in patient.ask(lambda: api.pods(name)) or ():
            if pod.uid not in seen:
                seen.add(pod.uid)
                if pod.index not in workers:
                    workers[pod.index] = _Worker(api, name, Lines(f"[{pod.index}] " if several else ""))
                workers[pod.index].add(pod)
            _tell(pod, told)
        for worker in workers.values():
            if worker.failure:
                raise worker.failure
        if over and not any(worker.is_busy for worker in workers.values()):
            return
        time.sleep(POLL)


def _tell(pod: Pod, told: dict[str, str]) -> None:
    """Says once why a worker does not begin, and how it ended."""
    news = pod.waits_for if pod.exit_code is None else f"exited {pod.exit_code}"
    if news and told.get(pod.uid) != news:
        told[pod.uid] = news
        tell(f"worker {pod.index}, pod {pod.name}: {news}")


class _Worker:
    """The logs of one worker's pods, in a thread that ends with the process."""

    def __init__(self, api: Api, name: str, lines: Lines) -> None:
        self.failure: Exception | None = None
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
            except Exception as error:  # Of any kind: nobody else hears of it.
                self.failure = error
                return
            self._left -= 1

    def _print(self, pod: Pod) -> None:
        progress = _Progress()
        patient = Patience()
        while True:
            # Once it had ended before its log was read to the end, there is no more of it.
            had_ended = patient.ask(lambda: self._has_ended(pod))
            if self._read(pod, progress, follow=not had_ended) and had_ended:
                write(self._lines.end())
                return
            time.sleep(POLL)

    def _read(self, pod: Pod, progress: "_Progress", *, follow: bool) -> bool:
        """Prints what is new in a log; returns whether it was read to the end."""
        try:
            with self._api.log(pod.name, follow=follow) as pieces:
                for text in progress.new_lines(pieces, is_whole=not follow):
                    write(self._lines.feed(text))
        except LostService:  # Whether it is for too long is found out by asking for the pod.
            return False
        except (NotFound, NotReady):  # Of a pod that has ended, there is none any more, or never was.
            return True
        return True

    def _has_ended(self, pod: Pod) -> bool:
        return all(each.has_ended for each in self._api.pods(self._name) if each.uid == pod.uid)


class _Progress:
    """How far the log of a pod has been read, over connections that break off and begin anew."""

    def __init__(self) -> None:
        self._moment = b""
        self._lines = 0  # Of that moment.

    def new_lines(self, pieces: Iterable[bytes], *, is_whole: bool) -> Iterator[bytes]:
        """The lines of a log, which is read from its beginning, that were not there before.

        Args:
          pieces: the log.
          is_whole: whether its last line is complete without an end, since nothing comes after it.
        """
        until, old = self._moment, self._lines
        for line in _lines(pieces, is_whole):
            written, _, text = line.partition(b" ")
            moment = written.removesuffix(b"Z")  # Moments of different precision sort without it.
            if moment < until:
                continue
            if moment == until and old:
                old -= 1
                continue
            self._lines = self._lines + 1 if moment == self._moment else 1
            self._moment = moment
            yield text + b"\n"


def _lines(pieces: Iterable[bytes], is_whole: bool) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest and is_whole:
        yield rest
