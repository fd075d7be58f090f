"""Runs the package's commands as a user would, as real processes with exit codes and output."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

# launch keeps the records of local jobs here, apart from the user's own.
_STATE = tempfile.TemporaryDirectory(prefix="poster-trainer-tests-")

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "XDG_STATE_HOME": _STATE.name}


def start(module: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Starts `python -m MODULE ARGUMENTS…`."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT, "cwd": REPOSITORY}
    return subprocess.Popen(command, **(pipes | options))  # type: ignore[call-overload]


def run(module: str, *arguments: object, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and asserts its exit code."""
    process = start(module, *arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def refusal(module: str, *arguments: object, **options: object) -> str:
    """Runs a command that must end with exit code 2 and one line, without a traceback, and returns that line."""
    err = run(module, *arguments, code=2, **options).stderr
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def end_all(processes: Iterable[subprocess.Popen[Any]]) -> None:
    """Ends the processes of a test that still run."""
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str], number: signal.Signals, *, when: Callable[[], bool]) -> int:
    """Sends a signal to a process once something has happened, and returns its exit code."""
    deadline = time.monotonic() + 120
    while not when():
        assert process.poll() is None, f"ended before the signal: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "what the signal waits for did not happen"
        time.sleep(0.001)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode
