"""Follows the logs of a job's workers; a restarted worker has several pods, one after the other."""

import collections
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from launch.console import tell, write
from launch.following import Poller
from launch.kubernetes.api import Api, NotFound, NotReady, Pod
from launch.log_lines import Lines
from trainer.errors import LostService

POLL = 2.0
"""Seconds between two requests for the state of a job."""


def follow(api: Api, name: str, *, several: bool, is_over: Callable[[], bool]) -> None:
    """Prints the logs of all workers until the job is over.

    Args:
      api: the cluster.
      name: the job's name.
      several: whether to begin each line with the index of its worker.
      is_over: returns whether the job is over, so that no new pod will appear; it may raise `Ended`.

    Raises:
      Ended: the logs cannot be read.
    """
    workers: dict[int, _Worker] = {}
    seen: set[str] = set()
    told: dict[str, str] = {}
    state_poller, pod_poller = Poller(), Poller()
    while True:
        over = state_poller.poll(is_over)
        for pod in pod_poller.poll(lambda: api.pods(name)) or ():
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
    """Tells the user once why a pod has not started, and how it ended."""
    news = pod.waits_for if pod.exit_code is None else f"exited {pod.exit_code}"
    if news and told.get(pod.uid) != news:
        told[pod.uid] = news
        tell(f"worker {pod.index}, pod {pod.name}: {news}")


class _Worker:
    """Prints the logs of one worker's pods, in a daemon thread."""

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
            except Exception as error:  # `follow` raises it in the main thread.
                self.failure = error
                return
            self._left -= 1

    def _print(self, pod: Pod) -> None:
        progress = _Progress()
        poller = Poller()
        while True:
            # A log is complete only if it is read to its end after the pod has ended.
            had_ended = poller.poll(lambda: self._has_ended(pod))
            if self._read(pod, progress, follow=not had_ended) and had_ended:
                write(self._lines.end())
                return
            time.sleep(POLL)

    def _read(self, pod: Pod, progress: "_Progress", *, follow: bool) -> bool:
        """Prints the new lines of a log; returns whether it was read to its end."""
        try:
            with self._api.log(pod.name, follow=follow) as pieces:
                for text in progress.new_lines(pieces, is_whole=not follow):
                    write(self._lines.feed(text))
        except LostService:  # The poll of the pod limits how long this may last.
            return False
        except (NotFound, NotReady):  # The log was deleted with its pod, or the pod ended before it had one.
            return True
        return True

    def _has_ended(self, pod: Pod) -> bool:
        return all(each.has_ended for each in self._api.pods(self._name) if each.uid == pod.uid)


class _Progress:
    """Remembers how far a pod's log has been read, so that a new connection repeats no line.

    The position is the time stamp of the last line, and how many lines with that time stamp have been read.
    """

    def __init__(self) -> None:
        self._moment = b""
        self._lines = 0  # With the time stamp self._moment.

    def new_lines(self, pieces: Iterable[bytes], *, is_whole: bool) -> Iterator[bytes]:
        """Yields the lines of a log that have not been read before, without their time stamps.

        Args:
          pieces: the log from its beginning, cut anywhere; each line begins with a time stamp.
          is_whole: whether the log is complete, so that its last line counts even without a line end.
        """
        until, old = self._moment, self._lines
        for line in _lines(pieces, is_whole):
            written, _, text = line.partition(b" ")
            moment = written.removesuffix(b"Z")  # Without it, time stamps of different precision sort correctly.
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
