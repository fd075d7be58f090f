"""A machine for the supervisor of local jobs: its clock runs only while the supervisor waits; a test describes its processes."""

import contextlib
import dataclasses
import heapq
import itertools
import os
import selectors
import signal
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.local import supervisor

_MAX_WAITS = 20_000  # Of a test: more means that the supervisor waits for something that it does not handle.

LINE = b"x" * 99 + b"\n"
"""What a process that floods its output repeats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run of a worker.

    Attributes:
      code: its exit code; a negative number is the signal that kills it.
      after: the seconds until it ends by itself; None: it runs until it is stopped.
      output: what it writes when it starts.
      saves: the seconds that it needs to end after SIGTERM; None: it ignores SIGTERM.
      stopped: its exit code after SIGTERM.
      floods: whether it writes as many lines as its pipe takes, a hundred times a second.
      silent_after: the seconds after which it closes its output; None: never.
    """

    code: int = 0
    after: float | None = 1.0
    output: bytes = b""
    saves: float | None = 0.5
    stopped: int = 143
    floods: bool = False
    silent_after: float | None = None


class Machine:
    """The machine.

    Attributes:
      now: the seconds since the supervisor's start.
      processes: the processes that were started, in this order.
      events: what happened to them, as (seconds, event, worker's index).
      fails: an error that the next start of a process raises.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.now = 0.0
        self.processes: list[Process] = []
        self.events: list[tuple[float, str, int]] = []
        self.fails: Exception | None = None
        self._waits = 0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._plans: list[list[Attempt]] = []
        self._arrived, self._request = os.pipe()
        os.set_blocking(self._arrived, False)
        self.stdout, self.stderr = (os.fdopen(os.open(folder / name, os.O_CREAT | os.O_RDWR), "r+b", 0) for name in ("out", "err"))
        machine = self

        class Selector(selectors.PollSelector):
            def select(self, timeout: float | None = None) -> Any:
                end = None if timeout is None else machine.now + timeout
                while not (ready := super().select(0)) and machine.advance(end):
                    pass
                return ready

        monkeypatch.setattr(supervisor, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(supervisor, "sys", self)
        monkeypatch.setattr(supervisor, "selectors", types.SimpleNamespace(**vars(selectors) | {"PollSelector": Selector}))
        monkeypatch.setattr(supervisor, "subprocess", types.SimpleNamespace(Popen=self._start, DEVNULL=subprocess.DEVNULL))
        monkeypatch.setattr(supervisor.pidfd, "open_process", lambda pid: os.dup(self._process(pid).ended))
        monkeypatch.setattr(supervisor.pidfd, "check_supported", lambda: None)
        monkeypatch.setattr(supervisor.pidfd, "send_signal", self._send_signal)
        monkeypatch.setattr(supervisor.os, "killpg", lambda pid, number: self._process(pid).kill(number))
        monkeypatch.setattr(supervisor.signals, "arriving", self._arriving)

    def close(self) -> None:
        """Closes what the machine has opened."""
        for process in self.processes:
            process.close()
        self.stdout.close()
        self.stderr.close()
        os.close(self._arrived)
        os.close(self._request)

    def plan(self, *workers: list[Attempt]) -> tuple[supervisor.Worker, ...]:
        """Returns workers with these attempts; further attempts repeat the last one."""
        self._plans = list(workers)
        return tuple(supervisor.Worker(command=("worker", str(index))) for index in range(len(workers)))

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Has something happen at a time."""
        heapq.heappush(self._due, (seconds, next(self._numbers), action))

    def signal_at(self, seconds: float) -> None:
        """Has the supervisor receive SIGTERM at a time."""
        self.at(seconds, lambda: os.write(self._request, bytes([signal.SIGTERM])))

    def printed(self) -> bytes:
        """Returns the output."""
        self.stdout.seek(0)
        return self.stdout.read()

    def said(self) -> list[str]:
        """Returns the supervisor's messages, without `launch: `."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode().splitlines()
        assert all(line.startswith("launch: ") for line in lines)
        return [line.removeprefix("launch: ") for line in lines]

    def happened(self, event: str) -> list[tuple[float, int]]:
        """Returns when an event happened to which worker: start, signal, kill, end or collect."""
        return [(seconds, index) for seconds, each, index in self.events if each == event]

    def note(self, event: str, index: int) -> None:
        """Adds an event."""
        self.events.append((self.now, event, index))

    def advance(self, end: float | None) -> bool:
        """Moves the clock to the next event; if there is none before `end`, moves it there and returns False."""
        self._waits += 1
        assert self._waits < _MAX_WAITS, "the supervisor does not wait"
        if not self._due or (end is not None and end < self._due[0][0]):
            assert end is not None, "the supervisor waits for ever"
            self.now = end
            return False
        self.now = self._due[0][0]
        while self._due and self._due[0][0] == self.now:
            heapq.heappop(self._due)[2]()
        return True

    @contextlib.contextmanager
    def _arriving(self) -> Iterator[int]:
        yield self._arrived

    def _start(self, command: tuple[str, ...], **options: Any) -> "Process":
        if self.fails:
            raise self.fails
        index = int(command[-1])
        number = sum(process.index == index for process in self.processes)
        attempts = self._plans[index]
        process = Process(self, index, attempts[min(number, len(attempts) - 1)], 100 + len(self.processes), options)
        self.processes.append(process)
        self.note("start", index)
        return process

    def _process(self, pid: int) -> "Process":
        found = next((process for process in self.processes if process.pid == pid and not process.is_collected), None)
        if found is None:
            raise ProcessLookupError
        return found

    def _send_signal(self, descriptor: int, number: int) -> None:
        next(each for each in self.processes if os.path.sameopenfile(descriptor, each.ended)).terminate(number)


class Process:
    """A process, with as much of subprocess.Popen as the supervisor uses.

    Attributes:
      index: the worker's index.
      pid: its process id.
      options: the options of subprocess.Popen.
      ended: a descriptor that is readable once the process has ended.
      is_collected: whether its exit code was collected.
      written: the bytes that it could write.
    """

    def __init__(self, machine: Machine, index: int, attempt: Attempt, pid: int, options: dict[str, Any]) -> None:
        self.index, self.pid, self.options = index, pid, options
        self.is_collected = False
        self.written = 0
        self._machine, self._attempt = machine, attempt
        self._code: int | None = None
        self.ended, self._end = os.pipe()
        self._output = os.dup(options["stdout"])
        os.set_blocking(self._output, False)
        self._write(attempt.output)
        if attempt.after is not None:
            machine.at(machine.now + attempt.after, lambda: self.end(attempt.code))
        if attempt.silent_after is not None:
            machine.at(machine.now + attempt.silent_after, self._close_output)
        if attempt.floods:
            self._flood()

    def wait(self) -> int:
        """Returns the exit code of the ended process."""
        assert self._code is not None, "the supervisor would wait for a process that runs"
        self.is_collected = True
        self._machine.note("collect", self.index)
        return self._code

    def terminate(self, number: int) -> None:
        """Receives SIGTERM."""
        assert number == signal.SIGTERM
        self._machine.note("signal", self.index)
        if self._attempt.saves is not None:
            self._machine.at(self._machine.now + self._attempt.saves, lambda: self.end(self._attempt.stopped))

    def kill(self, number: int) -> None:
        """Receives SIGKILL, with all its descendants."""
        assert number == signal.SIGKILL
        self._machine.note("kill", self.index)
        self.end(-number)

    def end(self, code: int) -> None:
        """Ends the process, unless it has ended."""
        if self._code is None:
            self._code = code
            self._machine.note("end", self.index)
            self._close_output()
            os.close(self._end)
            self._end = -1

    def close(self) -> None:
        """Closes its descriptors."""
        self._close_output()
        if self._end >= 0:
            os.close(self._end)
        os.close(self.ended)

    def _write(self, data: bytes) -> None:
        if self._output >= 0:
            with contextlib.suppress(BlockingIOError):
                self.written += os.write(self._output, data)

    def _flood(self) -> None:
        self._write((LINE * 700)[self.written % len(LINE) :])
        if self._output >= 0:
            self._machine.at(self._machine.now + 0.01, self._flood)

    def _close_output(self) -> None:
        if self._output >= 0:
            os.close(self._output)
            self._output = -1
