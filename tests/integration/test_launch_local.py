"""The supervisor of --target=local, with real processes that end in every way that a worker may."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import ENVIRONMENT, REPOSITORY, end_all, refusal, run

# Runs a spec as `python -m launch` does, with shorter times for the supervisor if the test sets them.
_DRIVER = """
import json, signal, sys
from launch.local import processes, supervisor
from trainer.process import entry

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's & makes it ignored.
spec = json.loads(sys.argv[1])
for name, seconds in spec.pop("times").items():
    assert hasattr(supervisor, name)
    setattr(supervisor, name, seconds)
workers = tuple(processes.Worker(**worker) for worker in spec.pop("workers"))
entry.run(lambda _: supervisor.supervise(processes.Spec(job_id="test-1", workers=workers, **spec)))
"""

# A worker. Each argument says how one attempt ends: with an exit code, by a signal (a negative number), on SIGTERM (wait, which
# needs a while to save its state), or not even on SIGTERM (deaf). It adds a line to WORKER.started for each attempt, and to
# WORKER.signals for each signal.
_WORKER = """
import os, pathlib, signal, sys, time

stem, *ends = sys.argv[1:]
with open(stem + ".started", "a+") as started:
    started.seek(0)
    end = ends[min(len(started.readlines()), len(ends) - 1)]

    def note(number, _):
        with open(stem + ".signals", "a") as file:
            file.write(f"{number}\\n")
        if number == signal.SIGTERM and end == "wait":
            time.sleep(0.4)
            pathlib.Path(stem + ".saved").touch()
            sys.exit(143)

    if end in ("wait", "deaf"):
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGINT, note)
    started.write(f"{os.getpid()} {time.monotonic()}\\n")
while end in ("wait", "deaf"):
    signal.pause()
if int(end) < 0:
    os.kill(os.getpid(), -int(end))
    time.sleep(60)
sys.exit(int(end))
"""

_FAST = {"_FIRST_DELAY": 0.05, "_LONGEST_DELAY": 0.2, "GUARD_MARGIN": 1.0}


@dataclasses.dataclass
class Desk:
    """Starts supervisors, and kills what they leave behind."""

    folder: Path
    supervisors: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def worker(self, name: str, *ends: object) -> dict:
        """Returns a worker whose attempts have these ends; further attempts repeat the last one."""
        return {"command": [sys.executable, "-c", _WORKER, str(self.folder / name), *map(str, ends)]}

    def start(self, *workers: dict, times: dict[str, float] = _FAST, **spec: object) -> subprocess.Popen[bytes]:
        """Supervises workers."""
        described = {"workers": workers, "times": times, "restarts": 0, "grace_period": 0.0} | spec
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, json.dumps(described)],
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.supervisors.append(process)
        return process

    def run(self, *workers: dict, code: int = 0, times: dict[str, float] = _FAST, **spec: object) -> tuple[bytes, str]:
        """Supervises workers to their end; returns what the supervisor wrote to stdout and stderr."""
        return finish(self.start(*workers, times=times, **spec), code)

    def attempts(self, name: str) -> list[tuple[int, float]]:
        """Returns the process id and start time of each attempt of a worker."""
        path = self.folder / f"{name}.started"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), float(line.split()[1])) for line in lines]

    def signals(self, name: str) -> list[int]:
        """Returns the signals that a worker received."""
        path = self.folder / f"{name}.signals"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_attempts(self, *names: str) -> None:
        """Waits until each of the workers has started."""
        wait_until(lambda: all(self.attempts(name) for name in names))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    end_all(desk.supervisors)
    for path in tmp_path.glob("*.started"):
        for pid, _ in desk.attempts(path.stem):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def finish(process: subprocess.Popen[bytes], code: int) -> tuple[bytes, str]:
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out[-2000:]!r}\n{err.decode()}"
    assert b"Traceback" not in err
    return out, err.decode()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def last_line(err: str) -> str:
    """Returns the one line that says why the job ended."""
    lines = [line for line in err.splitlines() if not line.startswith("launch: ")]
    assert len(lines) == 1, err
    return lines[0]


def script(text: str, *arguments: object) -> dict:
    return {"command": [sys.executable, "-c", text, *map(str, arguments)]}


def test_a_signal_that_kills_a_worker_becomes_an_exit_code(desk):
    desk.run(desk.worker("a", -9), code=137)


def test_a_worker_that_exits_2_stops_the_others(desk):
    waiting, deaf, late = desk.worker("wait", "wait"), desk.worker("deaf", "deaf"), desk.worker("late", 75)
    wrong = script(
        "import pathlib, sys, time\n"
        "while not all(pathlib.Path(path).exists() for path in sys.argv[1:]): time.sleep(0.01)\n"
        "time.sleep(0.2); sys.exit(2)",
        *(desk.folder / f"{name}.started" for name in ("wait", "deaf", "late")),
    )
    began = time.monotonic()
    _, err = desk.run(waiting, deaf, late, wrong, code=2, times=_FAST | {"_FIRST_DELAY": 30.0, "_LONGEST_DELAY": 30.0})
    assert time.monotonic() - began < 20
    assert last_line(err) == "error: worker 3 needs a change by the user: see the last line of its output"
    assert "worker 1 still runs 1 s after SIGTERM: killing it" in err
    assert [len(desk.attempts(name)) for name in ("wait", "deaf", "late")] == [1, 1, 1]
    assert desk.signals("wait") == desk.signals("deaf") == [signal.SIGTERM]
    assert not is_alive(desk.attempts("deaf")[0][0])


def test_lines_of_several_workers_stay_whole(desk):
    text = """
import sys, os
number = sys.argv[1]
for line in range(20_000):
    data = f"{number} {line} {'x' * (line % 97)}"
    os.write(1 + line % 2, data[:5].encode())
    os.write(1 + line % 2, (data[5:] + "\\n").encode())
os.write(1, b"the end")
"""
    out, _ = desk.run(*(script(text, number) for number in range(3)))
    lines: list[list[str]] = [[], [], []]
    for line in out.decode().splitlines():
        found = re.fullmatch(r"\[(\d)\] (.*)", line)
        assert found, line
        lines[int(found[1])].append(found[2])
    for number in range(3):
        assert lines[number] == [f"{number} {line} {'x' * (line % 97)}" for line in range(20_000)] + ["the end"]


def test_the_output_of_one_worker_passes_through_unchanged(desk):
    text = r"import os; [os.write(1 + n % 2, b'\r%d%%' % n) for n in range(100)]; os.write(1, b'\nend\xff')"
    out, _ = desk.run(script(text))
    assert out == b"".join(b"\r%d%%" % n for n in range(100)) + b"\nend\xff\n"


def test_output_without_a_reader_takes_no_memory_and_does_not_delay_the_stop(desk):
    text = """
import os, pathlib, signal, sys
def save(*_):
    os.write(1, b"z" * 200_000)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
while True:
    os.write(1, b"x" * 100 + b"\\n" + b"y" * 60_000)
"""
    saved = [desk.folder / f"{number}.saved" for number in range(2)]
    process = desk.start(*(script(text, path) for path in saved), grace_period=20.0)
    time.sleep(1.0)
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    assert int(peak[1]) < 100_000
    began = time.monotonic()
    process.terminate()
    wait_until(lambda: all(path.exists() for path in saved))
    out, _ = finish(process, 143)
    assert time.monotonic() - began < 15
    assert all(re.fullmatch(rb"(\[[01]\] [xyz]*)?", line) for line in out.split(b"\n"))


def test_a_slow_reader_loses_nothing(desk):
    text = "import os\nfor n in range(15_000): os.write(1, b'%999d\\n' % n)"
    process = desk.start(script(text), script(text))
    time.sleep(1.0)
    out, _ = finish(process, 0)
    for number in range(2):
        prefix = f"[{number}] "
        lines = [line.removeprefix(prefix) for line in out.decode().splitlines() if line.startswith(prefix)]
        assert lines == [f"{n:999d}" for n in range(15_000)]


def test_a_job_outlives_the_reader_of_its_log(desk):
    text = "import os, time\nfor _ in range(20): os.write(1, b'x' * 9999 + b'\\n'); time.sleep(0.01)"
    process = desk.start(script(text), desk.worker("a", 75, 0))
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, err = finish(process, 0)
    assert "launch: output is lost" in err
    assert len(desk.attempts("a")) == 2


def test_ctrl_c_stops_each_worker_once(desk):
    process = desk.start(desk.worker("a", "wait"), desk.worker("b", "wait"), desk.worker("c", 0), grace_period=10.0)
    desk.wait_for_attempts("a", "b", "c")
    # A terminal signals all processes of its foreground group, and a parent such as make signals once more.
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: desk.signals("a"))
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 143)
    assert last_line(err).startswith("stopped: ")
    assert all((desk.folder / f"{name}.saved").exists() for name in "ab")
    assert desk.signals("a") == desk.signals("b") == [signal.SIGTERM]
    assert [len(desk.attempts(name)) for name in "abc"] == [1, 1, 1]


def test_a_second_signal_ends_everything_at_once(desk):
    process = desk.start(desk.worker("a", "deaf"), desk.worker("b", "deaf"), grace_period=60.0)
    desk.wait_for_attempts("a", "b")
    process.terminate()
    wait_until(lambda: desk.signals("a") and desk.signals("b"))
    time.sleep(0.3)
    began = time.monotonic()
    process.terminate()
    finish(process, 143)
    assert time.monotonic() - began < 15
    assert not any(is_alive(desk.attempts(name)[0][0]) for name in "ab")


def test_workers_end_with_their_supervisor(desk):
    process = desk.start(desk.worker("a", "wait"), desk.worker("b", "wait"))
    desk.wait_for_attempts("a", "b")
    process.kill()
    process.communicate()
    wait_until(lambda: not any(is_alive(desk.attempts(name)[0][0]) for name in "ab"))
    assert desk.signals("a") == desk.signals("b") == [signal.SIGTERM]


def test_a_killed_worker_leaves_no_process_behind(desk):
    child = desk.worker("child", "deaf")["command"]
    text = f"""
import os, pathlib, signal, subprocess, sys, time
subprocess.Popen({child!r})
started = pathlib.Path(sys.argv[1])
while not (started.exists() and started.read_text()): time.sleep(0.01)  # The file exists before its line does.
os.kill(os.getpid(), signal.SIGKILL)
"""
    desk.run(script(text, desk.folder / "child.started"), desk.worker("a", 0), code=137)
    assert not is_alive(desk.attempts("child")[0][0])


_DRY_RUN = ("launch", "--target=local", "--workers=2", "--env=HF_TOKEN=s3", "--env=COLOUR=red", "--dry_run", "--")


def test_a_dry_run_prints_one_json_object_quickly():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(*_DRY_RUN, "--data_dir=d", "--job_dir=$(x) 'y'\n\"z\"")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    first, second = json.loads(done.stdout)["workers"]
    assert first["command"] == [sys.executable, "-m", "trainer.guard", "--data_dir=d", "--job_dir=$(x) 'y'\n\"z\""]
    assert first["environment"].keys() == {"HF_TOKEN", "COLOUR", "POSTER_JOB_ID", "TF_CONFIG"}
    assert (first["environment"]["HF_TOKEN"], second["environment"]["COLOUR"]) == ("***", "red")
    assert first["environment"]["POSTER_JOB_ID"] == second["environment"]["POSTER_JOB_ID"]
    assert json.loads(second["environment"]["TF_CONFIG"])["task"] == {"type": "worker", "index": 0}
    assert not done.stderr


def test_each_launch_has_a_name_and_ports_of_its_own():
    command = (*_DRY_RUN[:1], "run", "--name=film", *_DRY_RUN[1:], "--data_dir=d", "--job_dir=j")
    first, second = (json.loads(run(*command).stdout) for _ in range(2))
    assert first["job_id"] != second["job_id"]
    assert first["job_id"].startswith("film-")


def test_launch_imports_no_tensorflow_and_little_of_trainer():
    heavy = ("trainer", "tensorflow", "numpy", "kubernetes", "yaml")
    text = f"import sys, launch.__main__; print(*(m for m in sys.modules if m.split('.')[0] in {heavy}))"
    out = subprocess.run([sys.executable, "-c", text], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    storage = {"trainer.storage", "trainer.storage.credentials", "trainer.storage.failures", "trainer.storage.patience"}
    assert (
        set(out.split())
        == {"trainer", "trainer.config", "trainer.errors", "trainer.process"}
        | {"trainer.process.entry", "trainer.process.log", "trainer.process.tables"}
        | storage
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--target=local --workers=0 -- --data_dir=d --job_dir=j", "--workers must be"),
        (
            "--target=local --workers=257 -- --data_dir=d --job_dir=j --batch_size=257",
            "--workers must be at most 256 with --target=local, got 257",
        ),
        ("--target=mars -- --data_dir=d --job_dir=j", "--target=mars"),
        ("-- --data_dir=d --job_dir=j", "--target is missing: use one of local"),
        ("watch --target=local -- --data_dir=d --job_dir=j", "'watch' is not a command of launch: use one of run"),
        ("run --target=local film -- --data_dir=d --job_dir=j", "'film' is not a flag"),
        ("--target=local -- --data_dir=d --job_dir=j --modle=cnn", "'modle'"),
        ("--target=local --env=A -- --data_dir=d --job_dir=j", "--env=A has no value"),
    ],
)
def test_a_wrong_command_ends_in_one_line(arguments, says):
    assert says in refusal("launch", *arguments.split())
