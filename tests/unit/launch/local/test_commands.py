"""The commands of launch for jobs on this machine."""

import contextlib
import json
import re
import signal
import subprocess
import time
import types
from collections.abc import Iterator

import pytest

from launch.job import Job, Location
from launch.local import commands, state
from launch.local.processes import WorkerState
from tests.support import descriptors
from trainer.errors import Stopped, UserError

HERE = Location()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "poster-trainer"


@pytest.fixture
def launcher():
    """A process that stands for the launcher of a job."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@contextlib.contextmanager
def running(root, name="film-1", *, workers=2, **changes) -> Iterator[state.Recorder]:
    """Records a job that runs, with changes to its record."""
    with state.recording(name, workers) as recorder:
        assert recorder is not None
        path = root / name / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        yield recorder


def job(**fields):
    return Job(**({"arguments": ("--data_dir=d", "--job_dir=j"), "name": "film"} | fields))


def test_a_spec_is_printed_as_json(capsys):
    commands.print_spec(job(workers=2, env={"HF_TOKEN": "s3"}))
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert re.fullmatch("film-[0-9a-f]{8}", shown["job_id"])
    assert [worker["environment"]["HF_TOKEN"] for worker in shown["workers"]] == ["***"] * 2
    assert "\n  " in out  # For people.
    assert err == ""


@pytest.mark.parametrize("run_preflight", [True, False])
def test_a_run_checks_the_paths_and_then_supervises_and_records_the_job(monkeypatch, run_preflight):
    done: list[tuple[object, ...]] = []

    def supervise(plan, recorder):
        record = state.read(plan.job_id)
        done.append(("supervise", record.word, len(record.workers), len(plan.workers)))
        recorder.on_output(b"one\n")

    monkeypatch.setattr(commands.preflight, "check_paths", lambda job, *, is_remote: done.append(("check", is_remote)))
    monkeypatch.setattr(commands, "supervise", supervise)
    commands.run(job(workers=2), wait=False, run_preflight=run_preflight)
    assert done == [*([("check", False)] if run_preflight else []), ("supervise", "running", 2, 2)]
    (record,) = state.read_all()
    assert record.word == "done"
    assert state.log_path(record.name).read_bytes() == b"one\n"


def test_a_job_that_does_not_pass_the_checks_is_not_recorded(monkeypatch):
    def refuse(*_, **__):
        raise UserError("no data set")

    monkeypatch.setattr(commands.preflight, "check_paths", refuse)
    with pytest.raises(UserError, match="no data set"):
        commands.run(job(), wait=False, run_preflight=True)
    assert state.read_all() == []


def test_status_shows_the_job_and_each_worker(root, capsys):
    with running(root, "film-1") as recorder:
        recorder.on_change(
            [
                WorkerState(word="running", pid=77, exit_code=None, crashes=0),
                WorkerState(word="waiting", pid=None, exit_code=75, crashes=2),
            ]
        )
        commands.status("film-1", HERE)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "film-1  running"
    assert [row.split() for row in rows] == [
        ["WORKER", "PROCESS", "STATE", "EXIT", "CRASHES"],
        ["0", "77", "running", "0"],
        ["1", "waiting", "75", "2"],
    ]


def test_status_says_why_a_job_ended(root, capsys):
    with pytest.raises(Stopped), running(root, workers=1) as recorder:
        recorder.on_change([WorkerState(word="ended", pid=None, exit_code=0, crashes=0)])
        raise Stopped("as requested")
    commands.status("film-1", HERE)
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "film-1  stopped: as requested"
    assert row.split() == ["0", "ended", "0", "0"]


def test_the_log_of_an_ended_job_is_printed_whole(root, capfdbinary):
    text = bytes(range(256)) * 1000  # More than is read at once, and not UTF-8.
    with running(root, workers=1) as recorder:
        recorder.on_output(text)
    commands.logs("film-1", HERE)
    assert capfdbinary.readouterr().out == text


def test_the_log_is_followed_until_the_job_ends(root, capfdbinary, monkeypatch):
    """Also what the job writes just before its end is printed."""
    pauses = []
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(running(root, workers=1))
        recorder.on_output(b"one\n")

        def sleep(seconds):
            assert seconds > 0
            pauses.append(capfdbinary.readouterr().out)
            recorder.on_output(b"%d\n" % len(pauses))
            if len(pauses) == 3:
                stack.close()

        monkeypatch.setattr(commands, "time", types.SimpleNamespace(sleep=sleep))
        commands.logs("film-1", HERE)
    assert pauses == [b"one\n", b"1\n", b"2\n"]
    assert capfdbinary.readouterr().out == b"3\n"


def test_what_a_job_writes_while_its_log_is_read_is_not_lost(capfdbinary, monkeypatch):
    """The job ends between the look at its state and the last read."""
    recorder = state.Recorder("film-1", 1)
    is_running = state.is_running

    def is_running_until_now(name):
        answer = is_running(name)
        if not recorder._log.closed:
            recorder.on_output(b"last\n")
            recorder.end("done", "")
        return answer

    monkeypatch.setattr(commands.state, "is_running", is_running_until_now)
    monkeypatch.setattr(commands, "time", types.SimpleNamespace(sleep=lambda _: None))
    commands.logs("film-1", HERE)
    assert capfdbinary.readouterr().out == b"last\n"


@pytest.mark.parametrize("command", [commands.status, commands.logs, commands.cancel])
def test_an_unknown_job_is_named(command):
    with pytest.raises(UserError, match=r"job '../film' is not recorded on this machine"):
        command("../film", HERE)


def test_cancel_asks_the_launcher_to_end(root, launcher, capsys):
    with running(root, "film-1", pid=launcher.pid):
        commands.cancel("film-1", HERE)
        assert launcher.wait() == -signal.SIGTERM
    assert "job film-1 ends as soon as its workers have saved their state" in capsys.readouterr().err


def test_cancel_leaves_no_descriptor_open(root, launcher):
    with running(root, "film-1", pid=launcher.pid):
        before = descriptors.count()
        commands.cancel("film-1", HERE)
        assert descriptors.count() == before


def test_a_job_of_another_machine_or_container_is_cancelled_there(root, launcher):
    with (
        running(root, "film-1", pid=launcher.pid, machine=f"elsewhere {state.machine()}"),
        pytest.raises(UserError, match=r"in another container \(elsewhere\): cancel it there"),
    ):
        commands.cancel("film-1", HERE)
    assert launcher.poll() is None


def test_a_process_with_the_id_of_a_killed_launcher_gets_no_signal(root, launcher):
    with running(root, "film-1"):
        pass
    path = root / "film-1/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"word": "running", "pid": launcher.pid}))
    with pytest.raises(UserError, match=r"job film-1 is not running \(lost\): cancel only a job that is running"):
        commands.cancel("film-1", HERE)
    time.sleep(0.01)
    assert launcher.poll() is None


def test_cancel_of_a_job_that_has_ended_says_how_it_ended(root, launcher):
    launcher.kill()
    launcher.wait()
    with running(root, "film-1", pid=launcher.pid):
        pass
    path = root / "film-1/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": launcher.pid}))
    with pytest.raises(UserError, match=r"job film-1 is not running \(done\)"):
        commands.cancel("film-1", HERE)


def test_the_list_shows_each_job_with_its_age(root, capsys):
    now = time.time()
    with state.recording("film-1", 2), state.recording("film-2", 1):
        pass
    with running(root, "film-3", started=now - 3600 * 5):
        commands.list_jobs(HERE)
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["NAME", "STATE", "WORKERS", "AGE"]
    assert rows[1] == ["film-3", "running", "2", "5h"]
    assert sorted(row[:3] for row in rows[2:]) == [["film-1", "done", "2"], ["film-2", "done", "1"]]
