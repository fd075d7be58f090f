"""The guard as a real process, around fake workers that hang, die, lose their peers or are asked to stop."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.guard_worker import PRELUDE
from trainer.process import guarded

# Prints the signal that asks it to stop, and exits 143.
OBEDIENT = """
def stop(number, frame):
    say("asked by", signal.Signals(number).name)
    os._exit(143)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
"""

# Prints each signal, and keeps running.
DEAF = """
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: say("asked by", signal.Signals(number).name))
"""

WAIT = """
say(os.getpid())
while True:
    time.sleep(0.01)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a guard in a separate process group; one that still runs after the test is killed, with its worker."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *, prefix: tuple[str, ...] = (), **fields: object) -> subprocess.Popen[str]:
        command = [*prefix, sys.executable, "-m", "tests.support.guard_worker", json.dumps(fields), script]
        environment = commands.ENVIRONMENT | {"ATTEMPTS": str(tmp_path / "attempts")}
        guard = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=commands.REPOSITORY,
            start_new_session=True,
        )
        started.append(guard)
        return guard

    yield start
    for guard in started:
        guard.kill()  # Its worker dies with it.
        guard.communicate(timeout=10)


def ended(guard: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for a guard to end; returns the exit code, stdout and stderr."""
    out, err = guard.communicate(timeout=20)
    return guard.returncode, out, err


def said(guard: subprocess.Popen[str]) -> str:
    """Returns the next line that a worker prints."""
    assert guard.stdout
    return guard.stdout.readline().strip()


def state(pid: int) -> str:
    """Returns the state of a process as in /proc: R if it runs, S if it sleeps …; Z, a zombie, if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def is_alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# Exit codes.


@pytest.mark.parametrize("code", [0, 1, 2, 134, 143])
def test_the_workers_exit_code_is_the_guards(start: Start, code: int) -> None:
    assert ended(start(f"say('out'); os._exit({code})")) == (code, "out\n", "")


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGKILL, "error: the worker was killed by SIGKILL: out of memory?"),
        (signal.SIGABRT, "error: the worker was killed by SIGABRT"),
        (signal.SIGTERM, "error: the worker was killed by SIGTERM"),  # The worker itself received a signal.
    ],
)
def test_a_killed_worker_gives_the_exit_code_of_a_shell(start: Start, number: signal.Signals, line: str) -> None:
    assert ended(start(f"os.kill(os.getpid(), {int(number)})")) == (128 + number, "", line + "\n")


def test_the_command_takes_the_flags_of_the_training_task_and_runs_it() -> None:
    line = commands.refusal("trainer.guard", "--data_dir=/nowhere", "--job_dir=/nowhere", "--seed=-1")
    assert line == "error: --seed must be from 0 to 4294967295, got -1"
    assert commands.refusal("trainer.guard", "--epochs=many").startswith("error: --epochs must be a whole number, got 'many'")
    assert "'extra' is not a flag of trainer.guard" in commands.refusal("trainer.guard", "--data_dir=d", "--job_dir=j", "extra")
    assert "/nowhere/data" in commands.refusal("trainer.guard", "--data_dir=/nowhere/data", "--job_dir=/nowhere/job")


def test_it_imports_no_tensorflow() -> None:
    heavy = "{'tensorflow', 'tf_keras', 'numpy', 'pandas'}"
    program = f"import sys, trainer.guard, trainer.process.guarded; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=commands.REPOSITORY).returncode == 0


# Lost peers.


# Stalls.


def test_the_stacks_of_all_threads_of_a_worker_that_holds_the_gil_are_logged(start: Start, tmp_path: Path) -> None:
    script = """
def elsewhere():
    threading.Event().wait()
threading.Thread(target=elsewhere, daemon=True).start()
if attempt() == 2:
    os._exit(3)
heartbeat.beat(heartbeat.STEP)
hold_the_lock()
"""
    code, _, err = ended(start(script, stall_timeout=0.5))
    assert code == 3, err
    assert "in elsewhere" in err
    assert "in hold_the_lock" in err
    assert "ERROR: the worker made no progress for" in err
    assert err.index("in hold_the_lock") < err.index("made no progress") < err.index("attempt 1 of 10")


def test_the_time_in_which_all_was_frozen_is_not_a_stall(start: Start) -> None:
    script = "heartbeat.beat(heartbeat.STEP)\nsay(os.getpid())\ntime.sleep(0.8)\nos._exit(5)"
    guard = start(script, stall_timeout=2, rejoin=0)
    worker = int(said(guard))
    for pid in (guard.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.2)
    for pid in (guard.pid, worker):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    code, _, err = ended(guard)
    assert code == 5, err


def test_a_worker_that_closed_its_stderr_and_hangs_at_exit_is_killed(start: Start) -> None:
    script = "os.close(2); heartbeat.beat(heartbeat.STEP); atexit.register(time.sleep, 1000)"
    code, _, err = ended(start(script, stall_timeout=0.3, rejoin=0))
    assert code == 75
    assert "made no progress" in err


def test_the_guard_sleeps_while_a_worker_has_closed_the_pipe(start: Start) -> None:
    guard = start("os.close(int(os.environ[heartbeat.VARIABLE]))" + OBEDIENT + WAIT)

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{guard.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    said(guard)
    before = ticks()
    time.sleep(0.5)
    assert ticks() - before < 10  # Hundredths of a second.
    guard.terminate()
    assert ended(guard)[0] == 143


def test_a_worker_never_waits_for_the_guard_to_read_its_heartbeats(start: Start) -> None:
    script = """
say("ready")
while pathlib.Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[0] != "T":
    time.sleep(0.01)
for _ in range(70_000):  # A pipe holds 65,536.
    heartbeat.beat()
say("done")
os._exit(5)
"""
    guard = start(script)
    assert said(guard) == "ready"
    guard.send_signal(signal.SIGSTOP)
    assert said(guard) == "done"
    guard.send_signal(signal.SIGCONT)
    assert ended(guard)[0] == 5


# Requests to stop.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_reaches_the_worker(start: Start, number: signal.Signals) -> None:
    guard = start(OBEDIENT + WAIT)
    said(guard)
    guard.send_signal(number)
    assert ended(guard) == (143, f"asked by {number.name}\n", "")


def test_ctrl_c_reaches_the_worker_once(start: Start) -> None:
    guard = start(DEAF + "say('ready')\ntime.sleep(0.5)\nos._exit(1)")
    said(guard)
    os.killpg(guard.pid, signal.SIGINT)
    assert ended(guard) == (143, "asked by SIGINT\n", "")


def test_a_worker_that_holds_the_gil_is_killed_after_the_grace_period(start: Start) -> None:
    guard = start(OBEDIENT + "say(os.getpid())\nhold_the_lock()", grace_period=0.4)
    worker = int(said(guard))
    assert eventually(lambda: state(worker) == "S")  # It is blocked in C code.
    begin = time.monotonic()
    guard.terminate()
    code, out, err = ended(guard)
    assert 0.4 <= time.monotonic() - begin < 2
    assert (code, out) == (143, "")
    assert re.fullmatch(r"stopped: the worker did not stop within --grace_period=0.4 seconds of SIGTERM and was killed; .*\n", err)
    assert not is_alive(worker)


def test_a_worker_that_hangs_at_exit_is_killed_after_the_grace_period(start: Start) -> None:
    script = "atexit.register(time.sleep, 1000)\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
    guard = start(script + WAIT, grace_period=0.3)
    said(guard)
    guard.terminate()
    code, _, err = ended(guard)
    assert code == 143
    assert err.startswith("stopped: ")


# The guard's own death, and process 1.


@pytest.mark.parametrize("script", [WAIT, "say(os.getpid())\nhold_the_lock()"])
def test_a_worker_dies_with_its_guard(start: Start, script: str) -> None:
    guard = start(script)
    worker = int(said(guard))
    assert is_alive(worker)
    guard.kill()
    assert eventually(lambda: not is_alive(worker))


def alone(script: str, **variables: str) -> tuple[int, bytes]:
    """Runs a worker without a guard; returns its exit code and stdout."""
    command, environment = [sys.executable, "-c", PRELUDE + script], commands.ENVIRONMENT | variables
    process = subprocess.run(
        command, cwd=commands.REPOSITORY, env=environment, stdout=subprocess.PIPE, start_new_session=True, timeout=20
    )
    return process.returncode, process.stdout


def test_a_worker_whose_guard_died_before_the_worker_could_check_exits() -> None:
    assert alone("say('goes on')", **{guarded.VARIABLE: "0"}) == (-signal.SIGKILL, b"")


def test_without_a_guard_a_worker_is_not_affected() -> None:
    assert alone("import faulthandler; say(faulthandler.unregister(signal.SIGQUIT)); heartbeat.beat()") == (0, b"False\n")


def test_a_child_process_of_the_worker_that_calls_the_same_code_has_no_guard(start: Start) -> None:
    script = f"sys.exit(subprocess.run([sys.executable, '-c', {PRELUDE + 'sys.exit(5)'!r}]).returncode)"
    assert ended(start(script))[0] == 5


def test_a_worker_may_replace_itself_by_exec(start: Start) -> None:
    # The third attempt starts only if the guard receives the step; the fourth checks SIGKILL on the guard's death.
    script = """
if "again" not in sys.argv:
    say(os.getpid())
    os.execv(sys.executable, [sys.executable, "-c", SCRIPT, "again"])
say(os.getpid())
if attempt() < 3:
    heartbeat.beat(heartbeat.STEP)
    os._exit(75)
time.sleep(1000)
"""
    guard = start(f"SCRIPT = {PRELUDE + script!r}" + script, rejoin=1)
    for _ in range(3):
        worker = int(said(guard))
        assert int(said(guard)) == worker
    guard.kill()
    assert eventually(lambda: not is_alive(worker))


def test_the_child_processes_of_a_killed_worker_are_killed_too(start: Start) -> None:
    helper = "say(subprocess.Popen(['sleep', '30'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    guard = start(helper + DEAF + WAIT, grace_period=0.2)
    pids = [int(said(guard)), int(said(guard))]
    try:
        guard.terminate()
        assert ended(guard)[0] == 143
        assert eventually(lambda: not any(map(is_alive, pids)))
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


UNSHARE = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


@pytest.fixture
def process_1() -> tuple[str, ...]:
    """The prefix of a command that runs as process 1 of its own PID namespace."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare(1) and the right to make process namespaces: root outside a container")
    return UNSHARE


def test_as_process_1_the_guard_reaps_orphans_and_can_be_asked_to_stop(start: Start, process_1: tuple[str, ...]) -> None:
    script = """
assert os.getppid() == 1
for _ in range(20):
    subprocess.run(["sh", "-c", "sleep 0.1 & exit 0"])
time.sleep(0.4)
processes = [path for path in os.listdir("/proc") if path.isdigit()]
say(sorted(map(int, processes)) == [1, os.getpid()])
os.kill(1, signal.SIGTERM)
"""
    code, out, err = ended(start(OBEDIENT + script + WAIT, prefix=process_1))
    assert (code, out.splitlines()[0]) == (143, "True"), err
    assert out.endswith("asked by SIGTERM\n")


def test_as_process_1_the_guard_distinguishes_the_worker_from_orphans(start: Start, process_1: tuple[str, ...]) -> None:
    script = "subprocess.run(['sh', '-c', '(sleep 0.1; exit 9) & exit 0']); time.sleep(0.3); os._exit(7)"
    assert ended(start(script, prefix=process_1))[0] == 7
