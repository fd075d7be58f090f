"""Runs `trainer.task` as a child process and watches it: `python -m trainer.guard FLAGS`, with the flags of `trainer.task`.

This is the command for containers, Vertex AI and a local cluster. It forwards a request to stop, kills a worker that does not stop
or makes no progress, restarts a worker that lost its peers, and exits with a code that says whether to restart the command.
TensorFlow holds the interpreter's lock while it waits for peers, so no code inside the worker can do this. Imports no TensorFlow.
"""

import contextlib
import dataclasses
import logging
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags

from trainer import config
from trainer.cluster import discovery
from trainer.config import TrainConfig
from trainer.errors import EXIT_DONE, EXIT_LOST_PEER, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from trainer.process import entry, guarded, heartbeat, log
from trainer.process.signals import SAME_REQUEST_SECONDS

# All times are in seconds.
REJOIN_PAUSE = 1.0  # Before a restart.
STACKS_TIME = 1.0  # For a stalled worker to print the stacks of all threads.
TICK = 5.0  # The longest wait: a wait that takes longer shows that this process was frozen.
# For TensorFlow to connect workers that were all present a moment before. If a worker's host is cut off then, TensorFlow waits an
# hour, which no option shortens; but the others have to leave within a minute.
CONNECT_TIME = 50.0
FROZEN = 0.5  # A wait that takes this much too long was not merely delayed.

_log = logging.getLogger("trainer.guard")


def main(arguments: list[str]) -> int:
    """Runs `trainer.task` with the flags of this process; returns the exit code."""
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag of trainer.guard: write options as --name=value")
    log.configure(job.log_format, worker=discovery.discover().index)
    return run([sys.executable, "-m", "trainer.task", *sys.argv[1:]], job)


def run(command: Sequence[str], job: TrainConfig) -> int:
    """Runs a worker to its end, and restarts it each time it loses its peers.

    Call it in the main thread: the kernel kills the worker when the thread that started it ends. The handlers for SIGTERM, SIGINT
    and SIGCHLD stay installed for the rest of the process: once the exit code is known, a signal no longer changes it.

    Args:
      command: the command line of the worker.
      job: the job, whose options limit how long a worker may stall or take to stop, and how often it is restarted.

    Returns:
      The exit code for this process.
    """
    signals = _Signals()
    try:
        return _run(command, job, signals)
    finally:
        signals.ignore()


def _run(command: Sequence[str], job: TrainConfig, signals: "_Signals") -> int:
    rejoins = 0
    while True:
        signals.look()
        if signals.stop:
            _say("stopped", "asked to stop while no worker ran; the same command goes on from the last backup")
            return EXIT_STOPPED
        end = _attempt(command, job, signals)
        signals.look()
        if end.code in (EXIT_DONE, EXIT_USER_ERROR):
            return end.code
        if signals.stop:
            if end.code < 0:
                _say("stopped", f"{_death(end, signals, job)}; the same command goes on from the last backup")
            return EXIT_STOPPED
        if end.stalled:
            _log.error(
                "the worker made no progress for %.3g seconds and was killed; the stacks of its threads are above", end.stalled
            )
        elif end.code < 0:
            hint = ": out of memory?" if end.code == -signal.SIGKILL else ""
            _say("error", f"the worker was killed by {_name(-end.code)}{hint}")
            return 128 - end.code
        elif end.code != EXIT_LOST_PEER:
            return end.code
        rejoins = 1 if end.stepped else rejoins + 1
        if rejoins > job.rejoin:
            if job.rejoin:
                _log.error("the worker is not restarted: %d attempts in a row ended without a training step", rejoins)
            return EXIT_LOST_PEER
        _log.warning("the worker rejoins the others: attempt %d of %d", rejoins, job.rejoin)
        again = time.monotonic() + REJOIN_PAUSE
        while not signals.stop and time.monotonic() < again:
            signals.wait(again)
            _reap()


@dataclasses.dataclass(frozen=True)
class _End:
    """How a worker ended.

    Attributes:
      code: the exit code, or minus the number of the signal that killed it.
      stepped: whether it made a training step.
      stalled: the seconds without a heartbeat, if it was killed for that; otherwise 0.
      killed: whether the guard killed it.
    """

    code: int
    stepped: bool
    stalled: float
    killed: bool


class _Signals:
    """The signals that this process receives. They arrive in a pipe, so that a signal just before a wait ends it and none is lost.

    Attributes:
      stop: the number of the first signal that asked to stop, or 0.
      since: the monotonic time at which that signal was seen.
      urgent: whether it was repeated.
      woke: the monotonic time at which the latest wait ended.
    """

    def __init__(self) -> None:
        self.stop = 0
        self.since = math.inf
        self.urgent = False
        self.woke = time.monotonic()
        self._reader, writer = os.pipe()
        for end in (self._reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # The handlers do nothing: the interpreter writes the number into the pipe. Without a handler, process 1 receives no signal.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def wait(self, until: float, *pipes: int) -> float:
        """Waits for a signal, for data in a pipe or its end, or until a time; at most TICK seconds.

        Args:
          until: the monotonic time at which to stop waiting.
          *pipes: file descriptors to wait for.

        Returns:
          The seconds since the previous wait during which this process was frozen, with its container or its machine; otherwise 0.
        """
        poller = select.poll()
        for pipe in (self._reader, *pipes):
            poller.register(pipe, select.POLLIN)
        timeout = min(max(until - time.monotonic(), 0.0), TICK)
        poller.poll(math.ceil(timeout * 1000))
        self.look()
        before, self.woke = self.woke, time.monotonic()
        lost = self.woke - before - timeout
        return lost if lost > FROZEN else 0.0

    def look(self) -> None:
        """Reads the signals that have arrived."""
        now = time.monotonic()
        for number in _drain(self._reader) or b"":
            if number in (signal.SIGTERM, signal.SIGINT):
                if not self.stop:
                    self.stop, self.since = number, now
                elif now - self.since > SAME_REQUEST_SECONDS:
                    self.urgent = True

    def ignore(self) -> None:
        """Ignores all requests to stop from now on, so that the exit code stays; only SIGKILL ends the process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)


def _attempt(command: Sequence[str], job: TrainConfig, signals: _Signals) -> _End:
    """Runs a worker once, and returns how it ended."""
    progress, theirs = os.pipe()
    try:
        try:
            # The worker must never wait for the guard to read.
            for pipe in (progress, theirs):
                os.set_blocking(pipe, False)
            environment = {**os.environ, heartbeat.VARIABLE: str(theirs), guarded.VARIABLE: str(os.getpid())}
            # In its own session a worker receives the terminal's Ctrl-C only from its guard, and may still read the terminal.
            worker = subprocess.Popen(command, env=environment, pass_fds=[theirs], start_new_session=True)
        finally:
            os.close(theirs)
        try:
            return _attend(worker, progress, job, signals)
        finally:
            if worker.returncode is None:
                _kill(worker)
                worker.wait()
    finally:
        os.close(progress)


def _attend(worker: subprocess.Popen[bytes], progress: int, job: TrainConfig, signals: _Signals) -> _End:
    """Watches a worker until it ends, and kills it where it has to."""
    pipes = [progress]
    stepped = connecting = forwarded = killed = False
    stalled = 0.0
    kill_at = math.inf
    last_sign = time.monotonic()
    while worker.returncode is None:
        # The time before the first step includes the wait for peers and the compilation of the graph.
        patience = CONNECT_TIME if connecting else job.stall_timeout * (1 if stepped else 3) or math.inf
        can_stall = not (stalled or signals.stop)
        last_sign += signals.wait(min(kill_at, last_sign + patience if can_stall else math.inf), *pipes)
        # When a worker can be reaped, the pipe already contains all that it wrote.
        _reap(worker)
        said = _drain(progress)
        now = signals.woke
        if said is None:
            pipes.clear()
        elif said:
            last_sign = now
            stepped = stepped or heartbeat.STEP in said
            connecting = said.endswith(heartbeat.CONNECTING)
        if worker.returncode is not None or killed:
            continue
        if signals.stop and not forwarded:
            forwarded = True
            worker.send_signal(signals.stop)
            kill_at = min(kill_at, signals.since + job.grace_period)
        elif can_stall and now - last_sign >= patience:
            stalled = now - last_sign
            worker.send_signal(signal.SIGQUIT)
            kill_at = now + STACKS_TIME
        if signals.urgent or now >= kill_at:
            killed, kill_at = True, math.inf
            _kill(worker)
    return _End(worker.returncode, stepped, stalled, killed)


def _drain(pipe: int) -> bytes | None:
    """Returns the content of a pipe, or None if no process can write to it any more."""
    try:
        return os.read(pipe, 65536) or None  # The capacity of a pipe on Linux.
    except BlockingIOError:
        return b""


def _reap(worker: subprocess.Popen[bytes] | None = None) -> None:
    """Collects the exit codes of all children that have ended: process 1 of a container also inherits orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if worker and pid == worker.pid:
                worker.returncode = os.waitstatus_to_exitcode(status)


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """Kills a worker that was not reaped yet, and the processes that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)


def _death(end: _End, signals: _Signals, job: TrainConfig) -> str:
    """Returns a sentence about the death of a worker that was asked to stop."""
    if not end.killed:
        return f"the worker was ended by {_name(-end.code)}"
    if end.stalled:
        return f"the worker had made no progress for {end.stalled:.3g} seconds and was killed"
    if signals.urgent:
        return "the worker was killed, because the request to stop was repeated"
    return f"the worker did not stop within --grace_period={job.grace_period:g} seconds of {_name(signals.stop)} and was killed"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal.
        return f"signal {number}"


def _say(kind: str, message: str) -> None:
    # An error here means that nobody reads stderr any more; the exit code stays the same.
    with contextlib.suppress(OSError):
        log.last_line(kind, message)


if __name__ == "__main__":
    config.define_flags()
    flags.adopt_module_key_flags(config)  # So that --help lists them.
    entry.run(main)
