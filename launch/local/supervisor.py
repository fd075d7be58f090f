"""Keeps the workers of a job running on this machine: starts them, merges their output, restarts each by its exit code.

One thread waits for everything at once: output, ends of processes, signals, deadlines.
"""

import contextlib
import dataclasses
import functools
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from launch.console import JobFailed
from launch.job import OWN_VARIABLES
from launch.local import signals
from launch.local.processes import Spec, Watcher, Worker, WorkerState
from launch.log_lines import Lines, Output
from trainer.errors import EXIT_DONE, EXIT_LOST_PEER, EXIT_STOPPED, EXIT_USER_ERROR, Ended, Stopped, UserError
from trainer.process.signals import SAME_REQUEST_SECONDS

# Delays before a restart, in seconds: the first, doubled up to the longest, and first again after a run of this length.
_FIRST_DELAY, _LONGEST_DELAY, _LONG_RUN = 1.0, 30.0, 60.0

# A guard ends its worker after the grace period; it has this many seconds more to end itself.
_SLACK = 5.0

# Seconds that the last output has to be taken after a second signal.
_LAST_OUTPUT = 1.0

_MEANINGS = {
    EXIT_USER_ERROR: "the user must change something",
    EXIT_LOST_PEER: "lost a peer or a service",
    EXIT_STOPPED: "stopped from outside",
}

_READ = 64 * 1024


def supervise(spec: Spec, watcher: Watcher | None = None) -> None:
    """Runs the processes until each has exited 0. Only the main thread can do this.

    What they write goes to stdout, with the number of the worker before each line where there are several; what happens to them
    goes to stderr. No process is left when this returns or raises.

    Args:
      spec: the processes.
      watcher: is told of all that.

    Raises:
      UserError: a worker exited 2, or the time limit was reached.
      JobFailed: a worker crashed once more than `restarts` allows.
      Stopped: SIGINT, SIGTERM or SIGHUP came.
    """
    if not hasattr(os, "pidfd_open"):
        raise UserError("--target=local needs Linux: run it there, or train with python -m trainer.task and one worker")
    with signals.arriving() as arrived:
        _Supervisor(spec, arrived, watcher).run()


def next_delay(last: float, ran: float) -> float:
    """Seconds until a process that has ended is started again.

    Args:
      last: the delay before its last start; 0 for its first start.
      ran: how many seconds it ran since.
    """
    return _FIRST_DELAY if ran >= _LONG_RUN else min(max(2 * last, _FIRST_DELAY), _LONGEST_DELAY)


def meaning(code: int) -> str:
    """What an exit code says, in a few words."""
    if code in _MEANINGS:
        return _MEANINGS[code]
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(code - 128).name}"
    return "a crash"


@dataclasses.dataclass(eq=False)
class _Process:
    """A worker, over all its restarts."""

    index: int
    worker: Worker
    lines: Lines
    running: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    pipe: int = -1  # The reading end of what it writes.
    started: float = 0.0
    delay: float = 0.0
    restart_at: float | None = 0.0
    exit_code: int | None = None
    crashes: int = 0

    @property
    def is_done(self) -> bool:
        return self.exit_code == EXIT_DONE

    def state(self) -> WorkerState:
        if self.running:
            word = "running"
        elif self.is_done:
            word = "done"
        else:
            word = "ended" if self.restart_at is None else "waiting"
        pid = self.running.pid if self.running else None
        return WorkerState(word=word, pid=pid, exit_code=self.exit_code, crashes=self.crashes)


class _Supervisor:
    def __init__(self, spec: Spec, arrived: int, watcher: Watcher | None) -> None:
        """Args:
        spec: what to run.
        arrived: a descriptor from which the numbers of signals that came can be read.
        watcher: is told of all.
        """
        self._watcher = watcher
        self._spec = spec
        self._arrived = arrived
        several = len(spec.workers) > 1
        self._processes = [
            _Process(index, worker, Lines(f"[{index}] " if several else "")) for index, worker in enumerate(spec.workers)
        ]
        # Polling takes regular files too, as which stdout and stderr may come.
        self._selector = selectors.PollSelector()
        self._log, self._notes = Output(sys.stdout.fileno()), Output(sys.stderr.fileno())
        self._time_limit = None if spec.time_limit is None else time.monotonic() + spec.time_limit
        self._end: Ended | Stopped | None = None
        self._kill_at: float | None = None
        self._asked_at: float | None = None
        self._drain_until: float | None = None
        self._told_of_loss = False

    def run(self) -> None:
        """Runs all to the end; see `supervise`."""
        self._selector.register(self._arrived, selectors.EVENT_READ, self._on_signal)
        count = len(self._processes)
        self._note(f"job {self._spec.job_id}: {count} worker{'s' if count > 1 else ''} on this machine")
        try:
            self._on_time()
            while self._is_busy():
                self._watch()
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._on_time()
        finally:
            self._kill()
            self._selector.close()
        if self._end is not None and not all(process.is_done for process in self._processes):
            raise self._end

    def _is_busy(self) -> bool:
        is_pending = self._log.is_pending or self._notes.is_pending
        return self._has_work() or (is_pending and (self._drain_until is None or time.monotonic() < self._drain_until))

    def _has_work(self) -> bool:
        """Whether a worker runs or is to be started again: if not, all that is left is to have the output taken."""
        return any(process.running or process.restart_at is not None for process in self._processes)

    def _timeout(self) -> float | None:
        moments = [process.restart_at for process in self._processes]
        moments += [self._time_limit, self._kill_at, self._drain_until]
        waits = [moment - time.monotonic() for moment in moments if moment is not None]
        return max(0.0, min(waits)) if waits else None

    def _watch(self) -> None:
        """Chooses which outputs to read and to write."""
        for output in (self._log, self._notes):
            self._wait_for(output.descriptor, selectors.EVENT_WRITE, output.send, output.is_pending)
        for process in self._processes:
            if process.pipe >= 0:
                self._wait_for(
                    process.pipe, selectors.EVENT_READ, functools.partial(self._on_output, process), self._takes_output()
                )

    def _wait_for(self, descriptor: int, event: int, then: Callable[[], Any], wanted: bool) -> None:
        is_watched = descriptor in self._selector.get_map()
        if wanted and not is_watched:
            self._selector.register(descriptor, event, then)
        elif is_watched and not wanted:
            self._selector.unregister(descriptor)

    def _on_time(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        for process in self._processes:
            if process.restart_at is not None and process.restart_at <= now:
                self._start(process)
        if self._time_limit is not None and self._time_limit <= now:
            self._time_limit = None
            if self._has_work() and self._end is None:
                limit = f"--time_limit={self._spec.time_limit:g}"
                self._note(f"{limit} is over: stopping")
                self._stop(UserError(f"{limit} seconds were not enough: give more; the same command goes on from here"))
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for process in self._processes:
                if process.running:
                    self._note(f"worker {process.index} still runs {self._patience:g} s after SIGTERM: killed")
            self._kill()
        if self._log.lost and not self._told_of_loss:
            self._told_of_loss = True
            self._note("output is lost, because nothing takes it")

    @property
    def _patience(self) -> float:
        return self._spec.grace_period + _SLACK

    def _start(self, process: _Process) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        # Those that the user's shell has are of another cluster than this one.
        inherited = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        parent = os.getpid()
        try:
            process.running = subprocess.Popen(
                process.worker.command,
                env={**inherited, **process.worker.environment},
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,  # A terminal's Ctrl-C comes to the supervisor alone, which forwards it once.
                preexec_fn=functools.partial(signals.end_with, parent),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        process.pipe, process.started, process.restart_at = reading, time.monotonic(), None
        process.pidfd = os.pidfd_open(process.running.pid)
        self._selector.register(process.pidfd, selectors.EVENT_READ, functools.partial(self._on_end, process))
        self._tell()

    def _on_output(self, process: _Process) -> None:
        if process.pipe < 0 or not self._takes_output():  # Since the wait for it ended.
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(process.pipe, _READ)
            self._write(process.lines.feed(data))
            if not data:  # The process has closed it, and may run on.
                self._close_pipe(process)

    def _takes_output(self) -> bool:
        # A log whose reader is slow makes the workers wait, as any pipe would; one that is to save its state must not wait.
        return not self._log.is_full or self._end is not None

    def _close_pipe(self, process: _Process) -> None:
        if process.pipe in self._selector.get_map():
            self._selector.unregister(process.pipe)
        os.close(process.pipe)
        process.pipe = -1

    def _on_end(self, process: _Process) -> None:
        if not process.running:  # It has been collected since the wait for it ended.
            return
        self._judge(process, self._collect(process))
        self._tell()

    def _judge(self, process: _Process, code: int) -> None:
        """Decides what an exit code means for a worker and for the job."""
        ran = time.monotonic() - process.started
        if code == EXIT_DONE:
            return
        name = f"worker {process.index}"
        if self._end is not None:
            if code != EXIT_STOPPED:
                self._note(f"{name} ended with {code} ({meaning(code)})")
            return
        if code == EXIT_USER_ERROR:
            self._note(f"{name} exited {code} ({meaning(code)}): stopping the others")
            self._stop(UserError(f"{name} cannot go on until something is changed: its last line says what"))
            return
        if code not in (EXIT_LOST_PEER, EXIT_STOPPED):
            process.crashes += 1
        left = self._spec.restarts - process.crashes
        if left < 0:
            self._note(f"{name} exited {code} ({meaning(code)}), with no restart left: stopping the others")
            message = (
                f"{name} crashed {process.crashes} times, last with {code} ({meaning(code)}): see its output, or raise --restarts"
            )
            self._stop(JobFailed(message, code))
            return
        process.delay = next_delay(process.delay, ran)
        process.restart_at = time.monotonic() + process.delay
        self._note(
            f"{name} exited {code} ({meaning(code)}) after {ran:.0f} s: starts again in {process.delay:g} s; "
            f"{left} counted restart{'' if left == 1 else 's'} left"
        )

    def _collect(self, process: _Process) -> int:
        """Takes the last output and the exit code of a process that has ended, or is about to."""
        assert process.running
        self._kill_group(process)
        code = process.running.wait()
        if process.pidfd >= 0:
            self._selector.unregister(process.pidfd)
            os.close(process.pidfd)
        if process.pipe >= 0:
            with contextlib.suppress(BlockingIOError):
                # A pipe holds a mebibyte at most: more would come from a process that got away.
                for _ in range(16):
                    data = os.read(process.pipe, _READ)
                    if not data:
                        break
                    self._write(process.lines.feed(data))
            self._close_pipe(process)
        self._write(process.lines.end())
        process.running, process.pidfd = None, -1
        process.exit_code = code if code >= 0 else 128 - code
        return process.exit_code

    def _kill_group(self, process: _Process) -> None:
        """Ends a process with all that it started, so that a guard that was killed leaves nothing behind."""
        assert process.running
        # Its number is no other process's until its exit code is taken.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.running.pid, signal.SIGKILL)

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._arrived, _READ)
        now = time.monotonic()
        if not self._has_work():
            self._drain_until = now
        elif self._asked_at is None:
            self._asked_at = now
            self._note(f"stopping; the workers have {self._patience:g} s to save their state, a second signal ends them at once")
            self._stop(Stopped("as asked; the same command goes on from here"))
        elif now - self._asked_at > SAME_REQUEST_SECONDS:
            self._kill()
            self._drain_until = now + _LAST_OUTPUT

    def _stop(self, end: Ended | Stopped) -> None:
        """Asks all processes to end, once; the first reason for it counts."""
        if self._end is not None:
            return
        self._end = end
        self._kill_at = time.monotonic() + self._patience
        for process in self._processes:
            process.restart_at = None
            if process.running:
                signal.pidfd_send_signal(process.pidfd, signal.SIGTERM)

    def _kill(self) -> None:
        """Ends all processes at once."""
        running = [process for process in self._processes if process.running]
        for process in running:
            self._kill_group(process)
        for process in running:
            self._collect(process)
        for process in self._processes:
            process.restart_at = None

    def _write(self, lines: bytes) -> None:
        self._log.write(lines)
        if self._watcher:
            self._watcher.on_output(lines)

    def _note(self, text: str) -> None:
        line = f"launch: {text}\n".encode()
        self._notes.write(line)
        if self._watcher:
            self._watcher.on_output(line)

    def _tell(self) -> None:
        if self._watcher:
            self._watcher.on_change([process.state() for process in self._processes])
