"""What the guard does at its real times, around workers that hang, die, lose their peers or are asked to stop."""

import os
import signal
import sys

import pytest

from tests.support import commands
from tests.support.guard_world import PIPE_SIZE, imitated, life
from trainer import guard
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.process import guarded, heartbeat

STEP, OTHER, CONNECTING = heartbeat.STEP, heartbeat.OTHER, heartbeat.CONNECTING
JOB = TrainConfig(data_dir="-", job_dir="-")
TERM, INT, QUIT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL
FOR_A_RESTART = "; the same command goes on from the last backup\n"


@pytest.fixture
def world():
    with imitated() as world:
        yield world


def at_step(*acts, answers=None):
    """A worker that makes a training step after a second."""
    return life((1, STEP), *acts, answers=answers)


# The end of a worker, and the exit code.


@pytest.mark.parametrize("code", [0, 1, 2, 134, 143])
def test_the_workers_exit_code_is_the_guards(world, capsys, code):
    assert world.run(life((7, code))) == code
    assert world.seconds == 7, "the guard notices it at once"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (KILL, "error: the worker was killed by SIGKILL: out of memory?\n"),
        (signal.SIGHUP, "error: the worker was killed by SIGHUP\n"),
        (signal.SIGABRT, "error: the worker was killed by SIGABRT\n"),
        (40, "error: the worker was killed by signal 40\n"),  # Of the real-time signals only the first and the last have names.
    ],
)
def test_a_killed_worker_gives_the_exit_code_of_a_shell(world, capsys, number, said):
    assert world.run(life((3, -number))) == 128 + number
    assert capsys.readouterr().err == said


def test_a_worker_gets_the_command_and_the_way_to_its_guard_in_a_session_of_its_own(world, monkeypatch):
    monkeypatch.setenv("FILMS", "many")
    world.run(life((1, 0)))
    (worker,) = world.workers
    assert worker.options["command"] == ["python", "worker.py"]
    assert worker.options["start_new_session"] is True
    environment = worker.options["env"]
    assert [int(environment[heartbeat.VARIABLE])] == worker.options["pass_fds"]
    assert environment[guarded.VARIABLE] == str(os.getpid())
    assert environment["FILMS"] == "many"
    assert not worker.pipe_blocks, "a worker never waits for the guard to read"


def test_once_the_exit_code_is_known_a_request_to_stop_no_longer_changes_it(world):
    assert world.run(life((1, 3))) == 3
    for number in (TERM, INT):
        signal.raise_signal(number)
        # The interpreter keeps this to its end, where it takes other handlers away.
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.set_wakeup_fd(-1) == -1


def test_orphans_are_reaped_and_are_not_taken_for_the_worker(world):
    for pid in (11, 12):
        world.at(4, lambda pid=pid: world.ends(pid, 9))
    world.at(5, lambda: reaped.append(dict(world.dead)))
    reaped: list[dict[int, int]] = []
    assert world.run(life((6, 7))) == 7
    assert reaped == [{}]


def test_a_worker_is_killed_and_waited_for_when_the_guard_itself_fails(world):
    def fail():
        raise RuntimeError("a fault of the guard")

    world.at(5, fail)
    with pytest.raises(RuntimeError, match="a fault"):
        world.run(life())
    (worker,) = world.workers
    assert worker.signals == [(5, "SIGKILL")]
    assert worker.returncode == -KILL


def test_an_exit_code_survives_when_nobody_reads_stderr_any_more(world, monkeypatch):
    def broken(kind, message):
        raise BrokenPipeError

    monkeypatch.setattr(guard.log, "last_line", broken)
    assert world.run(life((1, -KILL))) == 137


# Lost peers.


def test_a_worker_that_lost_its_peers_is_restarted_a_second_later_and_rejoin_times(world, caplog):
    assert world.run(*[life((10, 75))] * 3, rejoin=2) == 75
    assert [worker.began for worker in world.workers] == [0, 11, 22]
    assert world.seconds == 32, "after the last attempt there is no pause"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the worker rejoins the others: attempt 1 of 2"),
        ("WARNING", "the worker rejoins the others: attempt 2 of 2"),
        ("ERROR", "the worker is not restarted: 3 attempts in a row ended without a training step"),
    ]
    assert len(set(world.files)) == 1, "no attempt leaves a file open"


def test_a_training_step_resets_the_count_of_restarts(world, caplog):
    lives = [life((10, 75)), life((5, STEP), (6, OTHER), (10, 75)), life((10, OTHER + STEP + OTHER), (10, 75)), life((1, 75))]
    assert world.run(*lives, rejoin=1) == 75
    assert [record.getMessage()[-14:] for record in caplog.records[:3]] == ["attempt 1 of 1"] * 3
    assert len(world.workers) == 4


def test_without_rejoin_a_worker_is_not_restarted(world, caplog):
    assert world.run(at_step((2, 75)), rejoin=0) == 75
    assert not caplog.records


def test_an_orphan_that_ends_in_the_pause_is_reaped_and_does_not_shorten_it(world):
    world.at(10.25, lambda: world.ends(11, 0))
    world.at(10.5, lambda: reaped.append(dict(world.dead)))
    reaped: list[dict[int, int]] = []
    assert world.run(life((10, 75)), life((1, 0))) == 0
    assert world.workers[1].began == 11
    assert reaped == [{}]


# Stalls.


def test_a_worker_without_a_sign_for_ten_minutes_prints_its_stacks_and_is_killed_and_restarted(world, caplog):
    assert world.run(at_step((100, OTHER)), life((1, 0))) == 0
    hung, _ = world.workers
    assert hung.signals == [(700, "SIGQUIT"), (701, "SIGKILL")]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the worker made no progress for 600 seconds and was killed; the stacks of its threads are above"),
        ("WARNING", "the worker rejoins the others: attempt 1 of 10"),
    ]
    assert world.polls < 200, "the guard sleeps in the meantime"


def test_before_its_first_step_a_worker_may_stall_three_times_as_long(world):
    world.run(life((2, STEP)), life((1, OTHER)), rejoin=1)
    assert [worker.signals[0][0] - worker.began for worker in world.workers] == [602, 1801]


def test_while_tensorflow_connects_the_workers_fifty_seconds_of_silence_are_a_stall(world):
    connecting = life((10, CONNECTING)), life((10, OTHER + CONNECTING))
    connected = life((10, CONNECTING), (20, STEP)), life((10, CONNECTING), (20, OTHER)), life((10, CONNECTING + OTHER))
    world.run(*connected, *connecting, rejoin=4)
    assert [worker.signals[0][0] - worker.began for worker in world.workers] == [620, 1820, 1810, 60, 60]


def test_no_option_gives_tensorflow_more_time_to_connect_the_workers(world):
    assert world.run(life((10, CONNECTING)), stall_timeout=0.0, rejoin=0) == 75
    assert world.workers[0].signals[0] == (60, "SIGQUIT")


@pytest.mark.parametrize("worker", [life((4000, 5)), at_step((4000, 5))])
def test_without_a_time_limit_a_silent_worker_is_left_alone(world, worker):
    assert world.run(worker, stall_timeout=0.0) == 5
    assert world.workers[0].signals == []


def test_heartbeats_keep_a_worker_alive(world):
    assert world.run(at_step(*((500.0 * i, OTHER) for i in range(1, 8)), (4000, 5))) == 5
    assert world.workers[0].signals == []


def test_the_time_in_which_all_was_frozen_is_not_a_stall(world):
    world.at(100, lambda: world.freeze(3600))
    assert world.run(at_step((590, OTHER), (1100, 5))) == 5
    assert world.workers[0].signals == []


def test_a_worker_that_also_hangs_without_the_frozen_time_has_stalled(world):
    # The guard would have waited until 101; the rest is the time in which it was frozen.
    world.at(100, lambda: world.freeze(3600))
    assert world.run(at_step(), rejoin=0) == 75
    assert world.workers[0].signals[0] == (4200, "SIGQUIT")


@pytest.mark.parametrize(("late", "stall"), [(0.5, 601), (0.75, 601.75)])
def test_a_wait_that_was_merely_delayed_counts(world, late, stall):
    # The guard, which sleeps at most five seconds, wakes at 6, 11 …
    world.at(10.5, lambda: world.delay(0.5 + late))
    world.run(at_step(), rejoin=0)
    assert world.workers[0].signals[0][0] == stall


def test_a_time_that_has_passed_is_not_waited_for(world):
    signals = guard._Signals()
    world.delay(10)
    assert signals.wait(world.clock() - 1) == 10, "what went before is the time in which the process was frozen"
    assert world.seconds == 10
    assert signals.wait(world.clock() + 100) == 0
    assert world.seconds == 15, "no wait is longer than TICK"


def test_the_guard_sleeps_while_a_worker_has_closed_the_pipe(world):
    assert world.run(at_step((2, None), (502, 5))) == 5
    assert world.polls < 120


def test_a_worker_that_ends_as_its_time_runs_out_has_not_stalled(world):
    assert world.run(at_step((601, 5))) == 5
    assert world.workers[0].signals == []


def test_a_worker_that_ends_while_it_prints_its_stacks_is_restarted_like_one_that_was_killed(world):
    assert world.run(at_step(answers={QUIT: (0.5, 1)}), life((1, 0))) == 0
    assert world.workers[0].signals == [(601, "SIGQUIT")]


# Requests to stop.


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_request_to_stop_reaches_the_worker_at_once(world, capsys, number):
    world.ask(3, number=number)
    assert world.run(life(answers={number: (2, 143)})) == 143
    assert world.workers[0].signals == [(3, number.name)]
    assert world.seconds == 5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 143), (2, 2), (75, 143), (143, 143)])
def test_the_exit_code_after_a_stop_depends_on_how_the_worker_exits(world, caplog, capsys, code, expected):
    world.ask(3)
    assert world.run(life(answers={TERM: (1, code)})) == expected
    assert (capsys.readouterr().err, caplog.records) == ("", [])


def test_a_worker_that_does_not_stop_is_killed_after_the_grace_period(world, capsys):
    world.ask(3)
    assert world.run(life()) == 143
    assert world.workers[0].signals == [(3, "SIGTERM"), (15, "SIGKILL")]
    said = "stopped: the worker did not stop within --grace_period=12 seconds of SIGTERM and was killed"
    assert capsys.readouterr().err == said + FOR_A_RESTART


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGSEGV])
def test_a_worker_that_somebody_else_ends_after_the_request_is_reported_so(world, capsys, number):
    world.ask(3)
    assert world.run(life((4, -number))) == 143
    assert capsys.readouterr().err == f"stopped: the worker was ended by {number.name}" + FOR_A_RESTART


@pytest.mark.parametrize(("again", "killed"), [(3.25, 15), (3.375, 3.375)])
def test_a_second_request_kills_at_once_unless_a_wrapper_sent_the_first_twice(world, capsys, again, killed):
    world.ask(3, again)
    assert world.run(life()) == 143
    assert world.workers[0].signals == [(3, "SIGTERM"), (killed, "SIGKILL")]
    assert ("because the request to stop was repeated" in capsys.readouterr().err) == (again == killed)


def test_a_worker_that_saves_its_state_after_a_request_may_be_silent(world):
    world.ask(500)
    assert world.run(at_step(answers={TERM: (900, 143)}), grace_period=1000.0) == 143
    assert world.workers[0].signals == [(500, "SIGTERM")]


def test_a_request_during_the_last_second_of_a_stalled_worker_does_not_lengthen_it(world, capsys):
    world.ask(601.5)
    assert world.run(at_step()) == 143
    assert world.workers[0].signals == [(601, "SIGQUIT"), (601.5, "SIGTERM"), (602, "SIGKILL")]
    said = "stopped: the worker had made no progress for 600 seconds and was killed"
    assert capsys.readouterr().err == said + FOR_A_RESTART


def test_a_worker_that_takes_long_to_die_is_killed_once_and_gets_no_other_signal(world):
    world.ask(605, 606)
    assert world.run(at_step(answers={KILL: (10, -KILL)})) == 143
    assert world.workers[0].signals == [(601, "SIGQUIT"), (602, "SIGKILL")]
    assert world.polls < 200


def test_a_worker_that_ends_as_the_request_arrives_gets_no_signal(world, capsys):
    def asks_and_ends():
        signal.raise_signal(TERM)
        world.ends(world.workers[0].pid, 75)

    assert world.run(life((3, asks_and_ends))) == 143
    assert world.workers[0].signals == []
    assert capsys.readouterr().err == ""


def test_a_request_just_after_the_workers_end_forbids_a_restart(world, caplog, capsys, monkeypatch):
    waitpid = guard.os.waitpid

    def asked(pid, options):
        found = waitpid(pid, options)
        if found[0]:
            signal.raise_signal(TERM)
        return found

    monkeypatch.setattr(guard.os, "waitpid", asked)
    assert world.run(life((3, 75))) == 143
    assert (capsys.readouterr().err, caplog.records) == ("", [])


def test_no_attempt_follows_a_request_in_the_pause_before_it(world, capsys):
    world.ask(10.5)
    assert world.run(life((10, 75))) == 143
    assert world.seconds == 10.5
    assert capsys.readouterr().err == "stopped: asked to stop while no worker ran" + FOR_A_RESTART


def test_no_attempt_follows_a_request_before_the_first(world, capsys, monkeypatch):
    class Asked(guard._Signals):
        def __init__(self):
            super().__init__()
            signal.raise_signal(TERM)

    monkeypatch.setattr(guard, "_Signals", Asked)
    assert world.run() == 143
    assert capsys.readouterr().err == "stopped: asked to stop while no worker ran" + FOR_A_RESTART


@pytest.mark.parametrize("refusal", [ProcessLookupError(), PermissionError()])
def test_a_worker_that_cannot_be_killed_because_it_is_dying_is_waited_for(world, refusal):
    world.ask(3)
    world.refusal = refusal
    assert world.run(life()) == 143
    assert world.workers[0].returncode == -KILL


def test_a_flood_of_signals_is_survived_in_silence(world, monkeypatch):
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def flood():
        for _ in range(PIPE_SIZE + 100):
            signal.raise_signal(signal.SIGCHLD)

    world.at(3, flood)
    assert world.run(life((5, 5))) == 5
    assert said == []


# The command.


@pytest.fixture
def command(monkeypatch):
    """The command `trainer.guard`, whose worker and log are only written down."""
    told: dict[str, object] = {}
    monkeypatch.setattr(guard.config, "from_flags", lambda: JOB)
    monkeypatch.setattr(guard.log, "configure", lambda style, *, worker: told.update(style=style, worker=worker))
    monkeypatch.setattr(guard, "run", lambda command, job: told.update(command=command, job=job) or 75)
    monkeypatch.setattr(sys, "argv", ["guard.py", "--data_dir=-", "--job_dir=-"])
    for variable in ("TF_CONFIG", "JOB_COMPLETION_INDEX", "POSTER_WORKERS"):
        monkeypatch.delenv(variable, raising=False)
    return told


def test_the_command_runs_the_training_task_with_its_own_flags(command, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    assert guard.main([]) == 75
    told = {"style": "auto", "worker": 1, "job": JOB}
    assert command == told | {"command": [sys.executable, "-m", "trainer.task", "--data_dir=-", "--job_dir=-"]}


def test_the_command_refuses_what_is_not_a_flag(command):
    with pytest.raises(UserError, match=r"^'extra' is not a flag of trainer\.guard: write options as --name=value$"):
        guard.main(["extra", "more"])
    assert command == {}


def test_the_command_lists_the_flags_of_the_training_task():
    said = commands.run("trainer.guard", "--help").stdout
    assert "--stall_timeout: For trainer.guard: seconds without progress" in " ".join(said.split())


def test_a_wrong_flag_of_the_command_ends_it_with_one_line():
    assert (
        commands.refusal("trainer.guard", "--data_dir=-", "--job_dir=-", "--epochs=0")
        == "error: --epochs must be at least 1, got 0"
    )
