"""The parent process of a worker, and what a container, Vertex AI or a desk starts: `python -m trainer.guard FLAGS`.

The flags are those of `trainer.task`, which it runs as its child: it forwards a request to stop, ends a worker that does not stop
or makes no progress, starts one again that lost its peers, and ends with the exit code that the worker's end comes to. TensorFlow
holds the interpreter's lock while it waits for peers, so nothing inside the worker could do this. Imports no TensorFlow.
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

# Seconds.
REJOIN_PAUSE = 1.0
STACKS_TIME = 1.0  # To print the stacks of all threads in.
TICK = 5.0  # The longest sleep, so that an oversleep shows.
# That TensorFlow may take to connect workers that were all there a moment ago. One whose host is cut off then it would wait an hour
# for, which no option shortens; a worker has to leave within a minute.
CONNECT_TIME = 50.0
FROZEN = 0.5  # An oversleep that is no mere delay.

_log = logging.getLogger("trainer.guard")


def main(arguments: list[str]) -> int:
    """Runs `trainer.task` with the flags that this process was given."""
    job = config.from_flags()
    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag of trainer.guard: options are written --name=value")
    log.configure(job.log_format, worker=discovery.discover().index)
    return run([sys.executable, "-m", "trainer.task", *sys.argv[1:]], job)


def run(command: Sequence[str], job: TrainConfig) -> int:
    """Runs a worker to its end, again and again where it lost its peers.

    Must be called in the main thread: the kernel ends the worker with the thread that started it. It takes SIGTERM, SIGINT and
    SIGCHLD for the rest of this process's life: once the exit code is known, a signal no longer changes it.

    Args:
      command: the worker.
      job: says how long a worker may stall or take to stop, and how often it is started again.

    Returns:
      The exit code of this process.
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
            _log.error("the worker made no progress for %.3g seconds and was killed; its stacks are above", end.stalled)
        elif end.code < 0:
            hint = ": out of memory?" if end.code == -signal.SIGKILL else ""
            _say("error", f"the worker was killed by {_name(-end.code)}{hint}")
            return 128 - end.code
        elif end.code != EXIT_LOST_PEER:
            return end.code
        rejoins = 1 if end.stepped else rejoins + 1
        if rejoins > job.rejoin:
            if job.rejoin:
                _log.error("the worker is not started again: %d attempts in a row made no training step", rejoins)
            return EXIT_LOST_PEER
        _log.warning("the worker rejoins the others: attempt %d of %d", rejoins, job.rejoin)
        again = time.monotonic() + REJOIN_PAUSE
        while not signals.stop and time.monotonic() < again:
            signals.wait(again)
            _reap()


@dataclasses.dataclass(frozen=True)
class _End:
    """How a worker ended: its exit code, or minus the signal that killed it."""

    code: int
    stepped: bool  # Whether it made a training step.
    stalled: float  # For how many seconds it had shown no sign of life, where that is why it was killed; else 0.
    killed: bool  # Whether the guard killed it.


class _Signals:
    """What this process has been sent, through a pipe: a signal that comes just before a wait ends the wait, so none is lost.

    Attributes:
      stop: the first request to stop, or 0.
      since: when it was seen.
      urgent: whether it was repeated.
      woke: when the latest wait was over.
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
        # Handlers that do nothing: the interpreter writes the number into the pipe. Process 1 is sent no signal without a handler.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def wait(self, until: float, *pipes: int) -> float:
        """Waits until a signal comes, a pipe holds something or is closed, or the time is `until`, at most TICK seconds.

        Returns:
          For how many seconds since the wait before this process did not run when it should have: it, the container or the machine
          was frozen.
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
        """Takes note of what has come."""
        now = time.monotonic()
        for number in _drain(self._reader) or b"":
            if number in (signal.SIGTERM, signal.SIGINT):
                if not self.stop:
                    self.stop, self.since = number, now
                elif now - self.since > SAME_REQUEST_SECONDS:
                    self.urgent = True

    def ignore(self) -> None:
        """From here on nothing that is sent to this process ends it or changes its exit code, save for SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)


def _attempt(command: Sequence[str], job: TrainConfig, signals: _Signals) -> _End:
    """Runs a worker once."""
    progress, theirs = os.pipe()
    try:
        try:
            # The worker must never wait for the guard to read.
            for pipe in (progress, theirs):
                os.set_blocking(pipe, False)
            environment = {**os.environ, heartbeat.VARIABLE: str(theirs), guarded.VARIABLE: str(os.getpid())}
            # In a session of its own a worker gets the terminal's Ctrl-C from its guard alone, and may still read the terminal.
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
    """Stays with a worker until it has ended."""
    pipes = [progress]
    stepped = connecting = forwarded = killed = False
    stalled = 0.0
    kill_at = math.inf
    last_sign = time.monotonic()
    while worker.returncode is None:
        # Before the first step come the wait for peers and the compilation of the graph.
        patience = CONNECT_TIME if connecting else job.stall_timeout * (1 if stepped else 3) or math.inf
        can_stall = not (stalled or signals.stop)
        last_sign += signals.wait(min(kill_at, last_sign + patience if can_stall else math.inf), *pipes)
        # What the worker said before it ended is in the pipe by the time that it can be reaped.
        _reap(worker)
        said = _drain(progress) if pipes else b""
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
    """What a pipe holds, or None where nobody can write to it any more."""
    try:
        return os.read(pipe, 65536) or None  # As much as Linux lets a pipe hold.
    except BlockingIOError:
        return b""


def _reap(worker: subprocess.Popen[bytes] | None = None) -> None:
    """Takes in the exit codes of all children that have ended: as process 1 of a container, those of orphans too."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if worker and pid == worker.pid:
                worker.returncode = os.waitstatus_to_exitcode(status)


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """Kills a worker that was not reaped yet, with the processes that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)


def _death(end: _End, signals: _Signals, job: TrainConfig) -> str:
    """Says how a worker died that was asked to stop."""
    if not end.killed:
        return f"the worker was ended by {_name(-end.code)}"
    if end.stalled:
        return f"the worker had made no progress for {end.stalled:.3g} seconds and was killed"
    if signals.urgent:
        return "the worker was killed, as the request to stop was repeated"
    return f"the worker did not stop within --grace_period={job.grace_period:g} seconds of {_name(signals.stop)} and was killed"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal.
        return f"signal {number}"


def _say(kind: str, message: str) -> None:
    # Nobody reads along any more, which changes no exit code.
    with contextlib.suppress(OSError):
        log.last_line(kind, message)


if __name__ == "__main__":
    config.define_flags()
    flags.adopt_module_key_flags(config)  # So that --help lists them.
    entry.run(main)
