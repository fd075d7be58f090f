"""Keeps the workers of a job running on this machine: starts them, merges their output, restarts each as its exit code asks.

A single thread waits for all events: output, ended processes, signals and deadlines.
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

from launch.job import GUARD_MARGIN, OWN_VARIABLES
from launch.local import pidfd, signals
from launch.local.processes import Spec, Watcher, Worker, WorkerState
from launch.log_lines import Lines, NonBlockingWriter
from launch.outcome import JobFailed
from trainer.errors import EXIT_DONE, EXIT_LOST_PEER, EXIT_STOPPED, EXIT_USER_ERROR, Ended, Stopped, UserError
from trainer.process.signals import SAME_REQUEST_SECONDS

# Seconds before a restart: the first delay, doubled up to the longest; a run of at least _LONG_RUN resets it to the first.
_FIRST_DELAY, _LONGEST_DELAY, _LONG_RUN = 1.0, 30.0, 60.0

# Seconds after a second signal in which the reader can still take the last output.
_LAST_OUTPUT = 1.0

_MEANINGS = {
    EXIT_USER_ERROR: "the user must change something",
    EXIT_LOST_PEER: "lost a peer or a service",
    EXIT_STOPPED: "asked to stop",
}

_CHUNK = 64 * 1024  # Bytes.


def supervise(spec: Spec, watcher: Watcher | None = None) -> None:
    """Runs the processes until each has exited 0; only the main thread may call this.

    The output of the processes goes to stdout, with the worker's index before each line if there are several. Messages about the
    processes go to stderr. When this returns or raises, no process is left.

    Args:
      spec: the processes.
      watcher: receives the output, the messages and each change of a worker's state.

    Raises:
      UserError: a worker exited 2, or the job reached its time limit; or this machine is not a Linux machine.
      JobFailed: a worker crashed more often than `restarts` allows.
      Stopped: SIGINT, SIGTERM or SIGHUP arrived.
    """
    pidfd.check_supported()
    with signals.arriving() as arrived:
        _Supervisor(spec, arrived, watcher).run()


def next_delay(last: float, ran: float) -> float:
    """Returns the seconds to wait before a process is restarted.

    Args:
      last: the seconds waited before its last start; 0 for its first start.
      ran: the seconds that it ran since its last start.
    """
    return _FIRST_DELAY if ran >= _LONG_RUN else min(max(2 * last, _FIRST_DELAY), _LONGEST_DELAY)


def meaning(code: int) -> str:
    """Returns the meaning of an exit code in a few words."""
    if code in _MEANINGS:
        return _MEANINGS[code]
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(code - 128).name}"
    return "a crash"


@dataclasses.dataclass(eq=False)
class _Process:
    """A worker across all its restarts."""

    index: int
    worker: Worker
    lines: Lines
    running: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    pipe: int = -1  # The reading end of the pipe for its output.
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
        """Prepares a run.

        Args:
          spec: the processes.
          arrived: a file descriptor from which the numbers of arrived signals can be read.
          watcher: receives the output, the messages and each change of a worker's state.
        """
        self._watcher = watcher
        self._spec = spec
        self._arrived = arrived
        several = len(spec.workers) > 1
        self._processes = [
            _Process(index, worker, Lines(f"[{index}] " if several else "")) for index, worker in enumerate(spec.workers)
        ]
        # Unlike epoll, poll supports regular files, which stdout and stderr may be.
        self._selector = selectors.PollSelector()
        self._log, self._notes = NonBlockingWriter(sys.stdout.fileno()), NonBlockingWriter(sys.stderr.fileno())
        self._time_limit = None if spec.time_limit is None else time.monotonic() + spec.time_limit
        self._end: Ended | Stopped | None = None
        self._kill_at: float | None = None
        self._asked_at: float | None = None
        self._drain_until: float | None = None
        self._told_of_loss = False

    def run(self) -> None:
        """Runs the processes to their end; see `supervise`."""
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
        """Whether a worker runs or will be restarted; if not, only output may still be pending."""
        return any(process.running or process.restart_at is not None for process in self._processes)

    def _timeout(self) -> float | None:
        moments = [process.restart_at for process in self._processes]
        moments += [self._time_limit, self._kill_at, self._drain_until]
        waits = [moment - time.monotonic() for moment in moments if moment is not None]
        return max(0.0, min(waits)) if waits else None

    def _watch(self) -> None:
        """Selects the descriptors to wait for: pipes to read, and outputs with pending bytes to write."""
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
        """Handles the deadlines that have passed: restarts, the time limit, and the end of the grace period."""
        now = time.monotonic()
        for process in self._processes:
            if process.restart_at is not None and process.restart_at <= now:
                self._start(process)
        if self._time_limit is not None and self._time_limit <= now:
            self._time_limit = None
            if self._has_work() and self._end is None:
                limit = f"--time_limit={self._spec.time_limit:g}"
                self._note(f"{limit} has passed: stopping")
                self._stop(UserError(f"{limit} has passed: raise it, then the same command resumes from here"))
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for process in self._processes:
                if process.running:
                    self._note(f"worker {process.index} still runs {self._seconds_to_end:g} s after SIGTERM: killing it")
            self._kill()
        if self._log.lost and not self._told_of_loss:
            self._told_of_loss = True
            self._note("output is lost, because its reader is gone or too slow")

    @property
    def _seconds_to_end(self) -> float:
        """The seconds that a worker's guard has to end after SIGTERM."""
        return self._spec.grace_period + GUARD_MARGIN

    def _start(self, process: _Process) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        # The variables in the user's shell would describe another cluster.
        inherited = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        parent = os.getpid()
        try:
            process.running = subprocess.Popen(
                process.worker.command,
                env={**inherited, **process.worker.environment},
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,  # Only the supervisor gets a terminal's Ctrl-C; it forwards it once.
                preexec_fn=functools.partial(signals.end_with, parent),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        process.pipe, process.started, process.restart_at = reading, time.monotonic(), None
        process.pidfd = pidfd.open_process(process.running.pid)
        self._selector.register(process.pidfd, selectors.EVENT_READ, functools.partial(self._on_end, process))
        self._tell()

    def _on_output(self, process: _Process) -> None:
        if process.pipe < 0 or not self._takes_output():  # Another event of the same wait has changed this.
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(process.pipe, _CHUNK)
            self._write(process.lines.feed(data))
            if not data:  # The process has closed its output, but may still run.
                self._close_pipe(process)

    def _takes_output(self) -> bool:
        # As with any pipe, a slow reader makes the workers wait; but workers that are stopping to save their state must not wait.
        return not self._log.is_full or self._end is not None

    def _close_pipe(self, process: _Process) -> None:
        if process.pipe in self._selector.get_map():
            self._selector.unregister(process.pipe)
        os.close(process.pipe)
        process.pipe = -1

    def _on_end(self, process: _Process) -> None:
        if not process.running:  # Another event of the same wait has collected it.
            return
        self._judge(process, self._collect(process))
        self._tell()

    def _judge(self, process: _Process, code: int) -> None:
        """Decides by a worker's exit code whether to restart it or to stop the job."""
        ran = time.monotonic() - process.started
        if code == EXIT_DONE:
            return
        name = f"worker {process.index}"
        if self._end is not None:
            if code != EXIT_STOPPED:
                self._note(f"{name} exited {code} ({meaning(code)})")
            return
        if code == EXIT_USER_ERROR:
            self._note(f"{name} exited {code} ({meaning(code)}): stopping the others")
            self._stop(UserError(f"{name} needs a change by the user: see the last line of its output"))
            return
        if code not in (EXIT_LOST_PEER, EXIT_STOPPED):
            process.crashes += 1
        left = self._spec.restarts - process.crashes
        if left < 0:
            self._note(f"{name} exited {code} ({meaning(code)}), with no restart left: stopping the others")
            message = (
                f"{name} crashed {process.crashes} times, last with exit code {code} ({meaning(code)}): see its output, or raise "
                "--restarts"
            )
            self._stop(JobFailed(message, code))
            return
        process.delay = next_delay(process.delay, ran)
        process.restart_at = time.monotonic() + process.delay
        self._note(
            f"{name} exited {code} ({meaning(code)}) after {ran:.0f} s: restarting in {process.delay:g} s; "
            f"{left} more crash{'' if left == 1 else 'es'} allowed"
        )

    def _collect(self, process: _Process) -> int:
        """Reads the last output and the exit code of a process that has ended or is being killed."""
        assert process.running
        self._kill_group(process)
        code = process.running.wait()
        if process.pidfd >= 0:
            self._selector.unregister(process.pidfd)
            os.close(process.pidfd)
        if process.pipe >= 0:
            with contextlib.suppress(BlockingIOError):
                # A pipe holds at most 1 MiB; more would come from a descendant that left the process group.
                for _ in range(16):
                    data = os.read(process.pipe, _CHUNK)
                    if not data:
                        break
                    self._write(process.lines.feed(data))
            self._close_pipe(process)
        self._write(process.lines.end())
        process.running, process.pidfd = None, -1
        process.exit_code = code if code >= 0 else 128 - code
        return process.exit_code

    def _kill_group(self, process: _Process) -> None:
        """Kills a process and its descendants, so that a killed guard leaves no worker behind."""
        assert process.running
        # Until its exit code is collected, no other process can get its process id.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.running.pid, signal.SIGKILL)

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._arrived, _CHUNK)
        now = time.monotonic()
        if not self._has_work():
            self._drain_until = now
        elif self._asked_at is None:
            self._asked_at = now
            self._note(f"stopping: the workers have {self._seconds_to_end:g} s to save their state; a second signal kills them")
            self._stop(Stopped("as requested; the same command resumes from here"))
        elif now - self._asked_at >= SAME_REQUEST_SECONDS:
            self._kill()
            self._drain_until = now + _LAST_OUTPUT

    def _stop(self, end: Ended | Stopped) -> None:
        """Asks all processes to end.

        Args:
          end: why; only the first call counts.
        """
        if self._end is not None:
            return
        self._end = end
        self._kill_at = time.monotonic() + self._seconds_to_end
        for process in self._processes:
            process.restart_at = None
            if process.running:
                pidfd.send_signal(process.pidfd, signal.SIGTERM)

    def _kill(self) -> None:
        """Kills all processes."""
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
