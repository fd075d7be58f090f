"""Polling a service through an outage, and what an error says of a job that goes on."""

import types

import pytest

from launch import following
from launch.following import MAX_OUTAGE, Poller, poll_until_answered
from trainer.errors import LostService, Stopped, UserError

FLAGS = "--target=vertex --region=r"


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=1000.0, slept=[])

    def sleep(seconds):
        clock.slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(following, "time", types.SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


def lost():
    raise LostService("the service is away: try again")


def test_a_poller_returns_the_answer():
    assert Poller().poll(lambda: 0) == 0


def test_an_outage_of_five_minutes_is_tolerated_and_told_once(clock, capsys):
    poller = Poller()
    assert poller.poll(lost) is None
    clock.now += MAX_OUTAGE
    assert poller.poll(lost) is None
    assert capsys.readouterr().err == "launch: the service is away: try again (retrying for 300 s)\n"
    clock.now += 0.1
    with pytest.raises(LostService):
        poller.poll(lost)


def test_an_answer_ends_an_outage(clock, capsys):
    poller = Poller()
    for _ in range(3):
        assert poller.poll(lost) is None
        clock.now += MAX_OUTAGE
        assert poller.poll(lambda: "answer") == "answer"
    assert capsys.readouterr().err.count("retrying") == 3


def test_another_error_is_no_outage():
    def refuse():
        raise UserError("no permission")

    with pytest.raises(UserError):
        Poller().poll(refuse)


def test_a_question_is_repeated_until_it_is_answered(clock):
    answers = iter([lost, lost, lambda: "answer"])
    assert poll_until_answered(lambda: next(answers)(), interval=5.0) == "answer"
    assert clock.slept == [5.0, 5.0]


def test_a_question_that_is_never_answered_ends(clock):
    with pytest.raises(LostService):
        poll_until_answered(lost, interval=5.0)
    assert clock.now == 1000 + MAX_OUTAGE + 5


def test_a_job_that_may_have_been_created_is_named():
    remedy = f"film-1 may have been created: cancel it with python -m launch cancel film-1 {FLAGS}"
    with pytest.raises(Stopped) as stopped, following.submitting("film-1", FLAGS):
        raise KeyboardInterrupt
    assert str(stopped.value) == f"interrupted; {remedy}"
    with pytest.raises(LostService) as error, following.submitting("film-1", FLAGS):
        lost()
    assert str(error.value) == f"the service is away: try again; {remedy}"
    with pytest.raises(UserError, match=r"^refused$"), following.submitting("film-1", FLAGS):
        raise UserError("refused")  # Then nothing was created.
    with following.submitting("film-1", FLAGS):
        pass


def test_an_error_while_following_says_that_the_job_goes_on():
    remedy = f"the job goes on: follow it with python -m launch logs film-1 {FLAGS}, or end it with cancel"
    with pytest.raises(Stopped) as stopped, following.following("film-1", FLAGS):
        raise KeyboardInterrupt
    assert str(stopped.value) == f"no longer following; {remedy}"
    for kind in (LostService, UserError):
        with pytest.raises(kind) as error, following.following("film-1", FLAGS):
            raise kind("away")
        assert str(error.value) == f"away; {remedy}"
    with following.following("film-1", FLAGS):
        pass


def test_a_job_that_runs_on_is_announced_on_stdout_by_its_name_alone(capsys):
    following.announce("film-1", FLAGS)
    out, err = capsys.readouterr()
    assert out == "film-1\n"
    assert err == f"launch: follow it with python -m launch logs film-1 {FLAGS}; status and cancel take the same arguments\n"
