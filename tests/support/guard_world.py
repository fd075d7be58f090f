"""A world for the guard in which only time and processes are imitated: pipes and signals are the system's own.

Time passes where the guard waits, from one event to the next, so that an hour of silence takes no time.
"""

import contextlib
import dataclasses
import fcntl
import heapq
import math
import os
import select
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trainer import guard
from trainer.config import TrainConfig
from trainer.process import guarded, heartbeat

PIPE_SIZE = 4096  # The smallest that Linux makes: it is soon full.
_BIRTH = 1000.0  # Not 0, so that a moment and a duration are never equal.
_SPIN = 3000  # A guard that waits so often does not sleep.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

# What a worker does: it sends heartbeats, closes their pipe (None), ends with a code or by minus a signal, or does something else.
Act = bytes | int | Callable[[], object] | None


@dataclasses.dataclass(frozen=True)
class Life:
    """What a worker does from its start on, and in answer to each signal: pairs of seconds and acts."""

    acts: tuple[tuple[float, Act], ...]
    answers: dict[int, tuple[float, Act]]


def life(*acts: tuple[float, Act], answers: dict[int, tuple[float, Act]] | None = None) -> Life:
    """Returns the life of a worker, which is deaf to all signals but SIGKILL unless `answers` has more."""
    return Life(acts, {signal.SIGKILL: (0.125, -signal.SIGKILL)} | (answers or {}))


class Worker:
    """The worker process that the guard started, as it sees it."""

    def __init__(self, world: "World", number: int, life: Life, options: dict[str, Any]) -> None:
        self.pid = 70_000 + number
        self.returncode: int | None = None
        self.options = options
        self.began = world.seconds
        self.signals: list[tuple[float, str]] = []
        self._world = world
        self._life = life
        # As a child process has it: its own copy of what pass_fds names.
        self._pipe: int | None = os.dup(options["pass_fds"][0])
        self.pipe_blocks = os.get_blocking(self._pipe)
        for seconds, act in life.acts:
            self._later(seconds, act)

    def send_signal(self, number: int) -> None:
        assert self.returncode is None, "a signal to a process that was reaped may reach another"
        self.signals.append((self._world.seconds, signal.Signals(number).name))
        if number in self._life.answers:
            self._later(*self._life.answers[number])

    def wait(self) -> None:
        while self.pid not in self._world.dead:
            assert self._world.step(math.inf), "the guard waits for a worker that does not end"
        self.returncode = os.waitstatus_to_exitcode(self._world.dead.pop(self.pid))

    def close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _later(self, seconds: float, act: Act) -> None:
        self._world.at(self._world.seconds + seconds, lambda: self._do(act))

    def _do(self, act: Act) -> None:
        if self.pid in self._world.dead or self.returncode is not None:
            return
        if isinstance(act, bytes):
            assert self._pipe is not None
            os.write(self._pipe, act)
        elif isinstance(act, int):
            self.close()
            self._world.ends(self.pid, act)
        elif act is None:
            self.close()
        else:
            act()


class World:
    """The clock, the processes and what happens to them.

    Attributes:
      workers: the workers that the guard has started.
      dead: the wait statuses of processes that the guard has not reaped, by process number.
      polls: how often the guard has waited.
      open: the ends of pipes that the guard has open.
      files: how many those were at the start of each worker.
      refusal: what the system raises when the guard kills a group of processes, if anything.
    """

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.dead: dict[int, int] = {}
        self.polls = 0
        self.open: set[int] = set()
        self.files: list[int] = []
        self.refusal: Exception | None = None
        self._lives: list[Life] = []
        self._now = _BIRTH
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._looks = self._waits = 0

    @property
    def seconds(self) -> float:
        """The seconds since the world began."""
        return self._now - _BIRTH

    def run(self, *lives: Life, **fields: Any) -> int:
        """Runs the guard over these workers, one an attempt; returns its exit code."""
        self._lives += lives
        return guard.run(["python", "worker.py"], TrainConfig(data_dir="-", job_dir="-", **fields))

    def at(self, seconds: float, act: Callable[[], object]) -> None:
        """Has something happen at a moment."""
        self._count += 1
        heapq.heappush(self._events, (_BIRTH + seconds, self._count, act))

    def ask(self, *moments: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Has somebody ask the guard to stop, at each of these moments."""
        for seconds in moments:
            self.at(seconds, lambda: signal.raise_signal(number))

    def ends(self, pid: int, code: int) -> None:
        """Ends a child process of the guard with an exit code, or minus the number of a signal."""
        self.dead[pid] = code << 8 if code >= 0 else -code
        signal.raise_signal(signal.SIGCHLD)

    def freeze(self, seconds: float) -> None:
        """Stops the guard and its worker for a time, with their machine: all that they would do comes later."""
        self._now += seconds
        self._events = [(moment + seconds, number, act) for moment, number, act in self._events]

    def delay(self, seconds: float) -> None:
        """Lets time pass in which the guard gets no processor, though its worker does."""
        self._now += seconds

    def step(self, until: float) -> bool:
        """Goes on to the next event, or to a moment if that comes first; returns whether there was an event."""
        if self._events and self._events[0][0] <= until:
            moment, _, act = heapq.heappop(self._events)
            self._now = max(self._now, moment)
            act()
            return True
        self._now = max(self._now, until)
        return False

    def clock(self) -> float:
        self._looks += 1
        assert self._looks < 10 * _SPIN, "the guard looks at the clock again and again, and time stands still"
        return self._now

    def popen(self, command: Any, **options: Any) -> Worker:
        self.files.append(len(self.open))
        worker = Worker(self, len(self.workers), self._lives.pop(0), options | {"command": command})
        self.workers.append(worker)
        return worker

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert (pid, options) == (-1, os.WNOHANG)
        self._waits += 1
        assert self._waits < 10 * _SPIN, "the guard asks for ended processes again and again"
        if self.dead:
            return self.dead.popitem()
        if all(worker.returncode is not None for worker in self.workers):
            raise ChildProcessError
        return 0, 0

    def killpg(self, pid: int, number: int) -> None:
        (worker,) = (worker for worker in self.workers if worker.pid == pid)
        worker.send_signal(number)
        if self.refusal:
            raise self.refusal

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        if sys.platform == "linux":
            fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.open.update(ends)
        return ends

    def read(self, file: int, size: int) -> bytes:
        assert not os.get_blocking(file), "the guard would wait until somebody writes"
        return os.read(file, size)

    def close(self, file: int) -> None:
        self.open.remove(file)
        os.close(file)

    def poll(self) -> "_Poll":
        return _Poll(self)


class _Poll:
    """select.poll, whose time-out is a time of the world's clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._real = select.poll()
        self.register = self._real.register

    def poll(self, milliseconds: float) -> None:
        self._world.polls += 1
        assert self._world.polls < _SPIN, "the guard waits again and again, and does not sleep"
        assert milliseconds >= 0, "the guard would wait for ever"
        until = self._world.clock() + milliseconds / 1000
        while not self._real.poll(0):
            if not self._world.step(until):
                return


@contextlib.contextmanager
def imitated() -> Iterator[World]:
    """Puts the guard into a world of its own, and gives this process its handlers for signals back afterwards."""

    def unexpected(number: int, frame: object) -> None:
        raise AssertionError(f"nobody handles {signal.Signals(number).name}")

    world = World()
    handlers = {number: signal.signal(number, unexpected) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(heartbeat.VARIABLE, raising=False)
            patch.delenv(guarded.VARIABLE, raising=False)
            patch.setattr(guard, "time", types.SimpleNamespace(monotonic=world.clock))
            patch.setattr(guard, "select", types.SimpleNamespace(poll=world.poll, POLLIN=select.POLLIN))
            patch.setattr(guard, "subprocess", types.SimpleNamespace(Popen=world.popen))
            own = {"waitpid": world.waitpid, "killpg": world.killpg, "pipe": world.pipe, "read": world.read, "close": world.close}
            patch.setattr(guard, "os", types.SimpleNamespace(**vars(os) | own))
            yield world
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for worker in world.workers:
            worker.close()
        for file in world.open:
            os.close(file)
