"""The supervisor of local jobs on an imitated machine: what it restarts, when it stops, and what it prints."""

import dataclasses
import os
import subprocess

import pytest

from launch.job import GUARD_MARGIN, OWN_VARIABLES
from launch.local import supervisor
from launch.local.processes import Spec, WorkerState
from launch.outcome import JobFailed
from tests.fakes.machine import LINE, Attempt, Machine
from tests.support import descriptors
from trainer.errors import Stopped, UserError
from trainer.process.signals import SAME_REQUEST_SECONDS

DONE, LOST, STOPPED, CRASH, WRONG = (Attempt(code=code) for code in (0, 75, 143, 7, 2))
RUNS = Attempt(after=None)
DEAF = Attempt(after=None, saves=None)
FLOODS = Attempt(after=None, floods=True)
GRACE = 20.0


class Watcher:
    """Keeps what the supervisor tells it."""

    def __init__(self):
        self.output = b""
        self.changes = []

    def on_output(self, data):
        self.output += data

    def on_change(self, workers):
        self.changes.append(list(workers))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    before = descriptors.count()
    machine = Machine(monkeypatch, tmp_path)
    yield machine
    machine.close()
    assert descriptors.count() == before, "the supervisor left a descriptor open"


def supervise(machine, *attempts, watcher=None, restarts=0, time_limit=None):
    workers = machine.plan(*(each if isinstance(each, list) else [each] for each in attempts))
    spec = Spec(job_id="film-1", workers=workers, restarts=restarts, grace_period=GRACE, time_limit=time_limit)
    supervisor.supervise(spec, watcher)


def full_pipe(machine):
    """Gives the supervisor an output that takes 64 KiB and that nobody reads; returns the reading end."""
    reading, writing = os.pipe()
    machine.stdout.close()
    machine.stdout = os.fdopen(writing, "wb", buffering=0)
    return reading


def test_a_job_is_done_when_each_worker_has_exited_0(machine):
    supervise(machine, Attempt(after=5.0), Attempt(after=50.0))
    assert machine.now == 50
    assert machine.happened("start") == [(0, 0), (0, 1)]
    assert machine.happened("signal") == []
    assert machine.said() == ["job film-1: 2 workers on this machine"]


def test_a_single_worker_is_called_a_worker(machine):
    supervise(machine, DONE)
    assert machine.said() == ["job film-1: 1 worker on this machine"]


def test_a_worker_that_lost_a_peer_or_was_stopped_is_restarted_however_often(machine):
    supervise(machine, [LOST, STOPPED, LOST, DONE], DONE)
    assert machine.happened("start") == [(0, 0), (0, 1), (2, 0), (5, 0), (10, 0)]  # Each ran for a second.
    assert machine.said()[1:] == [
        "worker 0 exited 75 (lost a peer or a service) after 1 s: restarting in 1 s; 0 more crashes allowed",
        "worker 0 exited 143 (asked to stop) after 1 s: restarting in 2 s; 0 more crashes allowed",
        "worker 0 exited 75 (lost a peer or a service) after 1 s: restarting in 4 s; 0 more crashes allowed",
    ]


def test_a_long_run_resets_the_delay(machine):
    supervise(machine, [LOST, LOST, Attempt(code=75, after=100.0), DONE])
    assert [seconds for seconds, _ in machine.happened("start")] == [0, 2, 5, 106]


def test_crashes_are_counted_and_the_last_allowed_one_is_restarted(machine):
    watcher = Watcher()
    supervise(machine, [CRASH, LOST, Attempt(code=-9), DONE], watcher=watcher, restarts=2)
    said = machine.said()
    assert [line.partition("; ")[2] for line in said[1:]] == [
        f"{left} allowed" for left in ("1 more crash", "1 more crash", "0 more crashes")
    ]
    assert "worker 0 exited 137 (killed by SIGKILL) after 1 s" in said[3]
    assert watcher.changes[-1][0].crashes == 2


def test_one_crash_too_many_stops_the_job_with_its_exit_code(machine):
    with pytest.raises(JobFailed) as caught:
        supervise(machine, RUNS, CRASH, [LOST], restarts=1)
    assert str(caught.value) == ("worker 1 crashed 2 times, last with exit code 7 (a crash): see its output, or raise --restarts")
    assert caught.value.exit_code == 7
    assert "worker 1 exited 7 (a crash), with no restart left: stopping the others" in machine.said()
    assert machine.happened("signal") == [(3, 0), (3, 2)]
    assert machine.now == 3.5


def test_each_worker_has_restarts_of_its_own(machine):
    supervise(machine, [CRASH, DONE], [CRASH, DONE], restarts=1)
    assert len(machine.happened("start")) == 4


def test_a_worker_that_exits_2_stops_the_others_and_restarts_none(machine):
    waiting = Attempt(code=75, after=0.5)  # Waits for its restart at 1.5 s when the other exits at 1 s.
    with pytest.raises(UserError, match=r"^worker 1 needs a change by the user: see the last line of its output$"):
        supervise(machine, RUNS, WRONG, waiting, Attempt(after=None, stopped=7), Attempt(after=None, stopped=0), restarts=5)
    assert machine.happened("signal") == [(1, 0), (1, 3), (1, 4)]
    assert len(machine.happened("start")) == 5
    assert machine.said()[-2:] == [
        "worker 1 exited 2 (the user must change something): stopping the others",
        "worker 3 exited 7 (a crash)",
    ]


def test_the_first_reason_to_stop_counts(machine):
    with pytest.raises(UserError, match="worker 1 needs a change"):
        supervise(machine, Attempt(after=None, saves=3.0, stopped=2), WRONG, Attempt(after=None, stopped=7), time_limit=3.0)
    assert machine.said()[-2:] == ["worker 2 exited 7 (a crash)", "worker 0 exited 2 (the user must change something)"]
    assert len(machine.happened("signal")) == 2


def test_a_worker_that_does_not_end_is_killed_when_its_guard_should_have_ended(machine):
    with pytest.raises(UserError):
        supervise(machine, DEAF, WRONG, RUNS)
    seconds = GRACE + GUARD_MARGIN
    assert machine.now == 1 + seconds
    assert (machine.now, 0) in machine.happened("kill")
    assert machine.said()[-1] == "worker 0 still runs 25 s after SIGTERM: killing it"


def test_the_time_limit_stops_the_job(machine):
    with pytest.raises(UserError, match=r"^--time_limit=90 has passed: raise it, then the same command resumes from here$"):
        supervise(machine, RUNS, Attempt(after=10.0), time_limit=90.0)
    assert machine.happened("signal") == [(90, 0)]
    assert machine.said()[-1] == "--time_limit=90 has passed: stopping"


def test_the_time_limit_stops_a_job_that_waits_for_a_restart(machine):
    with pytest.raises(UserError, match=r"--time_limit=2.5 has passed"):
        supervise(machine, [LOST, LOST], time_limit=2.5)
    assert machine.now == 3  # The second run was stopped.
    assert machine.happened("signal") == [(2.5, 0)]


def test_a_job_that_is_done_before_its_time_limit_does_not_wait_for_it(machine):
    supervise(machine, DONE, time_limit=90.0)
    assert machine.now == 1


def test_a_job_that_is_done_when_its_time_limit_passes_is_done(machine):
    """Its last output waits for a slow reader at that time."""
    reading = full_pipe(machine)
    machine.at(95.0, lambda: os.close(reading))
    supervise(machine, dataclasses.replace(FLOODS, after=1.0, code=0), time_limit=90.0)
    assert machine.now == 95
    assert len(machine.said()) == 2


def test_a_signal_lets_the_workers_save_their_state(machine):
    machine.signal_at(10.0)
    with pytest.raises(Stopped, match=r"^as requested; the same command resumes from here$"):
        supervise(machine, RUNS, RUNS, [LOST, RUNS])
    assert machine.happened("signal") == [(10, 0), (10, 1), (10, 2)]
    assert machine.now == 10.5
    assert machine.said()[-1] == "stopping: the workers have 25 s to save their state; a second signal kills them"


def test_a_signal_ends_the_wait_for_a_restart(machine):
    machine.signal_at(1.5)
    with pytest.raises(Stopped):
        supervise(machine, LOST)
    assert machine.now == 1.5
    assert len(machine.happened("start")) == 1


def test_a_job_whose_workers_exit_0_when_asked_to_stop_is_done(machine):
    machine.signal_at(10.0)
    supervise(machine, Attempt(after=None, stopped=0), DONE)


def test_a_job_with_one_worker_that_did_not_exit_0_is_stopped(machine):
    machine.signal_at(10.0)
    with pytest.raises(Stopped):
        supervise(machine, Attempt(after=None, stopped=0), RUNS)


def test_the_same_request_twice_is_one_and_a_second_request_kills(machine):
    machine.signal_at(10.0)
    machine.signal_at(10.0 + SAME_REQUEST_SECONDS / 2)
    machine.signal_at(10.0 + SAME_REQUEST_SECONDS)
    with pytest.raises(Stopped):
        supervise(machine, DEAF, DEAF)
    assert machine.now == 10.0 + SAME_REQUEST_SECONDS
    events = [event for seconds, event, _ in machine.events if seconds == machine.now]
    assert events[:4] == ["kill", "end", "kill", "end"]  # All are killed before one is waited for.
    assert machine.happened("signal") == [(10, 0), (10, 1)]


def test_a_worker_that_ends_with_the_second_signal_is_collected_once(machine):
    machine.signal_at(10.0)
    machine.signal_at(11.0)
    with pytest.raises(Stopped):
        supervise(machine, Attempt(after=None, saves=1.0), DEAF)
    assert [index for _, index in machine.happened("collect")] == [0, 1]


def test_each_worker_is_killed_with_its_descendants_when_it_ends(machine):
    supervise(machine, [CRASH, DONE], restarts=1)
    assert machine.happened("kill") == [(1, 0), (3, 0)]


def test_the_output_of_several_workers_becomes_whole_lines_with_their_index(machine):
    supervise(machine, Attempt(output=b"one\ntwo"), Attempt(output=b"three\n", after=2.0))
    assert sorted(machine.printed().splitlines()) == [b"[0] one", b"[0] two", b"[1] three"]


def test_the_output_of_one_worker_has_no_index(machine):
    supervise(machine, [Attempt(output=b"\r10%\r20%", code=75), Attempt(output=b"end\n")])
    assert machine.printed() == b"\r10%\r20%\nend\n"


def test_a_worker_may_close_its_output_and_run_on(machine):
    supervise(machine, Attempt(output=b"one\n", silent_after=2.0, after=10.0), Attempt(after=20.0))
    assert machine.now == 20
    assert machine.printed() == b"[0] one\n"


def test_a_watcher_sees_each_change_and_all_output(machine):
    watcher = Watcher()
    with pytest.raises(UserError):
        supervise(machine, [Attempt(code=75, output=b"lost\n"), RUNS], Attempt(code=2, after=5.0), watcher=watcher, restarts=1)
    waiting = WorkerState(word="waiting", pid=None, exit_code=None, crashes=0)
    running = [WorkerState(word="running", pid=pid, exit_code=None, crashes=0) for pid in (100, 101)]
    lost = WorkerState(word="waiting", pid=None, exit_code=75, crashes=0)
    again = WorkerState(word="running", pid=102, exit_code=75, crashes=0)
    wrong = WorkerState(word="ended", pid=None, exit_code=2, crashes=0)
    stopped = WorkerState(word="ended", pid=None, exit_code=143, crashes=0)
    assert watcher.changes == [
        [running[0], waiting],
        running,
        [lost, running[1]],
        [again, running[1]],
        [again, wrong],
        [stopped, wrong],
    ]
    assert watcher.output.startswith(b"launch: job film-1: 2 workers on this machine\n[0] lost\n")


def test_a_worker_that_is_done_is_called_so(machine):
    watcher = Watcher()
    supervise(machine, DONE, watcher=watcher)
    assert watcher.changes[-1] == [WorkerState(word="done", pid=None, exit_code=0, crashes=0)]


def test_a_worker_is_a_process_of_its_own_session_without_input(machine, monkeypatch):
    ended_with: list[int] = []
    monkeypatch.setattr(supervisor.signals, "end_with", ended_with.append)
    for name in OWN_VARIABLES:
        monkeypatch.setenv(name, "of the shell")
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.setenv("DEPTH", "1")
    (worker,) = machine.plan([DONE])
    worker = dataclasses.replace(worker, environment={"POSTER_JOB_ID": "film-1", "DEPTH": "2"})
    supervisor.supervise(Spec(job_id="film-1", workers=(worker,), restarts=0, grace_period=GRACE))
    (process,) = machine.processes
    options = process.options
    assert options["stdin"] == subprocess.DEVNULL
    assert options["stdout"] == options["stderr"]
    assert options["start_new_session"] is True  # A terminal's Ctrl-C does not reach it.
    own = {key: options["env"].get(key) for key in (*OWN_VARIABLES, "COLOUR", "DEPTH")}
    assert own == dict.fromkeys(OWN_VARIABLES) | {"POSTER_JOB_ID": "film-1", "COLOUR": "red", "DEPTH": "2"}
    options["preexec_fn"]()
    assert ended_with == [os.getpid()]


def test_a_worker_that_cannot_be_started_ends_the_others(machine):
    machine.at(0.5, lambda: setattr(machine, "fails", OSError("no memory")))
    with pytest.raises(OSError, match="no memory"):
        supervise(machine, RUNS, LOST)
    assert machine.happened("collect")[-1] == (2, 0)


def test_a_slow_reader_makes_the_workers_wait_but_loses_nothing(machine):
    reading = full_pipe(machine)
    received = []

    def read():
        received.append(os.read(reading, 1 << 16))
        if machine.now < 25:
            machine.at(machine.now + 0.03, read)

    machine.at(19.0, lambda: machine.note(f"{machine.processes[0].written >> 20} MiB", 0))
    machine.at(20.0, read)
    supervise(machine, dataclasses.replace(FLOODS, after=21.0), DONE)
    read()
    os.close(reading)
    assert machine.happened("1 MiB") == [(19, 0)]  # It waited for the reader, and did not write 1900 × 64 KiB.
    written = machine.processes[0].written
    assert written > 2 << 20
    lines = (LINE * (written // len(LINE) + 1))[:written].splitlines()
    assert b"".join(received).splitlines() == [b"[0] " + line for line in lines]
    assert len(machine.said()) == 1


def test_workers_that_are_stopping_need_not_wait_for_a_slow_reader(machine):
    reading = full_pipe(machine)
    machine.signal_at(10.0)
    machine.signal_at(12.0)
    machine.at(11.0, lambda: machine.note(f"{machine.processes[0].written >> 20} MiB", 0))
    with pytest.raises(Stopped):
        supervise(machine, dataclasses.replace(FLOODS, saves=None))
    os.close(reading)
    assert machine.happened("7 MiB") == [(11, 0)]  # A hundred times 64 KiB more.
    assert machine.now == 13  # After the second signal the reader has a second for the last output.


def test_a_signal_ends_the_wait_for_the_last_output(machine):
    reading = full_pipe(machine)
    machine.signal_at(50.0)
    supervise(machine, dataclasses.replace(FLOODS, after=1.0))
    os.close(reading)
    assert machine.now == 50


def test_a_job_outlives_the_reader_of_its_output(machine):
    os.close(full_pipe(machine))
    supervise(machine, [Attempt(output=b"one\n", code=75), Attempt(output=b"two\n", code=75), DONE])
    assert machine.said().count("output is lost, because its reader is gone or too slow") == 1


def test_delays_double_and_are_reset_after_a_long_run():
    delays = [0.0]
    for _ in range(7):
        delays.append(supervisor.next_delay(delays[-1], ran=5.0))
    assert delays[1:] == [1, 2, 4, 8, 16, 30, 30]
    assert supervisor.next_delay(30.0, ran=59.0) == 30
    assert supervisor.next_delay(30.0, ran=60.0) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (2, "the user must"),
        (75, "lost a peer"),
        (143, "asked to stop"),
        (137, "killed by SIGKILL"),
        (139, "SIGSEGV"),
        (1, "a crash"),
        (255, "a crash"),
    ],
)
def test_an_exit_code_is_explained(code, text):
    assert text in supervisor.meaning(code)
