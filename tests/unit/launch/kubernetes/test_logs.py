"""The logs of a job's pods: no line is lost or repeated, whatever happens to connections and pods."""

import contextlib
import dataclasses
import threading
import time
import types
from typing import Any

import pytest

from launch.kubernetes import logs
from launch.kubernetes.api import NotFound, NotReady, Pod
from trainer.errors import LostService, UserError

RUNNING = Pod(name="film-1-0-a", uid="a", index=0, created="1", phase="Running", exit_code=None, waits_for="")
ENDED = dataclasses.replace(RUNNING, phase="Failed", exit_code=75)


class Api:
    """A cluster whose pods have logs, each with an answer for each request; the last one is repeated."""

    def __init__(self, **answers):
        self.found: Any = ()
        self.asked: list[tuple[str, bool]] = []
        self.answers = answers
        self.after = {}  # What happens after a request for a log, by the number of the request.

    def pods(self, name):
        assert name == "film-1"
        if isinstance(self.found, Exception):
            raise self.found
        return list(self.found)

    @contextlib.contextmanager
    def log(self, pod, *, follow):
        self.asked.append((pod, follow))
        answers = self.answers[pod.rpartition("-")[2]]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        try:
            if isinstance(answer, Exception):
                raise answer
            yield iter(answer)
        finally:
            self.after.pop(len(self.asked), lambda: None)()

    def become(self, *pods):
        self.found = pods


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Shortens the pauses; returns their lengths, and whether the main thread made them."""
    pauses = []
    sleep = time.sleep

    def short(seconds):
        pauses.append((seconds, threading.current_thread() is threading.main_thread()))
        assert len(pauses) < 5000, "the log does not end"
        sleep(0.0005)

    monkeypatch.setattr(logs, "time", types.SimpleNamespace(sleep=short))
    return pauses


def follow(api, *, several=False, is_over=lambda: True):
    logs.follow(api, "film-1", several=several, is_over=is_over)


def other(pod, uid, index=0):
    return dataclasses.replace(pod, name=f"film-1-{index}-{uid}", uid=uid, index=index)


def test_the_log_of_a_pod_that_has_ended_is_read_once(capsysbinary):
    api = Api(a=[[b"1Z one\n2Z t", b"wo\n", b"3Z three"]])
    api.become(ENDED)
    follow(api)
    assert capsysbinary.readouterr().out == b"one\ntwo\nthree\n"
    assert api.asked == [("film-1-0-a", False)]


def test_the_log_of_a_pod_that_runs_is_followed_and_read_again_after_its_end(capsysbinary, pauses):
    api = Api(a=[[b"1Z one\n2Z tw"], [b"1Z one\n2Z two\n3Z three\n"]])
    api.become(RUNNING)
    api.after[1] = lambda: api.become(ENDED)
    follow(api)
    assert capsysbinary.readouterr().out == b"one\ntwo\nthree\n"
    assert api.asked == [("film-1-0-a", True), ("film-1-0-a", False)]
    assert pauses.count((2.0, False)) == 1  # Between the two requests for the log.
    assert {seconds for seconds, _ in pauses} == {2.0}


def test_a_line_without_an_end_gets_one(capsysbinary):
    """Also the last state of a progress bar is kept."""
    api = Api(a=[[b"1Z 10%\r20%\n2Z 30%\r"]])
    api.become(ENDED)
    follow(api, several=True)
    assert capsysbinary.readouterr().out == b"[0] 20%\n[0] 30%\n"


@pytest.mark.parametrize("problem", [LostService("away"), NotReady()])
def test_a_connection_that_breaks_is_made_again(capsysbinary, problem):
    api = Api(a=[problem, [b"1Z one\n"], [b"1Z one\n2Z two\n"]])
    api.become(RUNNING)
    api.after[2] = lambda: api.become(ENDED)
    follow(api)
    assert capsysbinary.readouterr().out == b"one\ntwo\n"
    assert [is_followed for _, is_followed in api.asked] == [True, True, False]


def test_the_log_of_an_ended_pod_is_read_again_after_an_outage(capsysbinary):
    api = Api(a=[LostService("away"), [b"1Z one\n"]])
    api.become(ENDED)
    follow(api)
    assert capsysbinary.readouterr().out == b"one\n"


@pytest.mark.parametrize("problem", [NotFound("gone"), NotReady()])
def test_a_pod_that_ended_without_a_log_has_none(capsysbinary, problem):
    api = Api(a=[problem], b=[[b"1Z one\n"]])
    api.become(ENDED, other(ENDED, "b"))
    follow(api)
    assert capsysbinary.readouterr().out == b"one\n"
    assert len(api.asked) == 2


def test_a_deleted_pod_has_ended():
    api = Api(a=[[b"1Z one\n"]])
    api.become(RUNNING)
    api.after[1] = lambda: api.become()
    follow(api)
    assert api.asked == [("film-1-0-a", True), ("film-1-0-a", False)]


def test_a_replaced_pod_follows_the_one_before(capsysbinary):
    api = Api(a=[[b"1Z one\n"]], b=[[b"2Z two\n"]], c=[[b"1Z three\n"]])
    api.become(ENDED, other(ENDED, "b"), other(dataclasses.replace(ENDED, exit_code=0), "c", index=1))
    follow(api, several=True)
    out, err = capsysbinary.readouterr()
    lines = out.splitlines()
    assert [line for line in lines if line.startswith(b"[0]")] == [b"[0] one", b"[0] two"]
    assert [line for line in lines if line.startswith(b"[1]")] == [b"[1] three"]
    assert err.decode().splitlines() == [
        "launch: worker 0, pod film-1-0-a: exited 75",
        "launch: worker 0, pod film-1-0-b: exited 75",
        "launch: worker 1, pod film-1-1-c: exited 0",
    ]


def test_a_job_that_is_over_is_followed_until_its_last_log_is_read(capsysbinary):
    is_read, may_end = threading.Event(), threading.Event()
    polls: list[bool] = []

    def slowly():
        is_read.set()
        assert may_end.wait(5)
        yield b"2Z two\n"

    def is_over():
        polls.append(is_read.is_set())
        if sum(polls) == 3:
            may_end.set()
        return True

    api = Api(a=[[b"1Z one\n"]], b=[slowly()])
    api.become(ENDED, other(ENDED, "b"))
    follow(api, is_over=is_over)
    assert capsysbinary.readouterr().out == b"one\ntwo\n"


def test_news_of_a_pod_is_told_once(capsysbinary):
    polls: list[int] = []
    api = Api(a=[NotReady(), [b"1Z one\n"]])
    api.become(dataclasses.replace(RUNNING, phase="Pending", waits_for="ContainerCreating"))
    pulling = dataclasses.replace(RUNNING, phase="Pending", waits_for="ImagePullBackOff")

    def is_over():
        polls.append(len(polls))
        if len(polls) == 3:
            api.become(pulling)
        if len(polls) == 5:
            api.become(ENDED)
        return len(polls) > 5

    follow(api, is_over=is_over)
    assert capsysbinary.readouterr().err.decode().splitlines() == [
        f"launch: worker 0, pod film-1-0-a: {news}" for news in ("ContainerCreating", "ImagePullBackOff", "exited 75")
    ]


def test_a_job_that_is_not_over_may_get_more_pods(capsysbinary):
    answers = iter([False, False, True])
    api = Api(a=[[b"1Z one\n"]])

    def is_over():
        over = next(answers, True)
        if over:
            api.become(ENDED)
        return over

    follow(api, is_over=is_over)
    assert capsysbinary.readouterr().out == b"one\n"


def test_an_outage_is_neither_the_end_of_the_job_nor_of_its_pods(capsysbinary):
    answers = iter([LostService("jobs are away"), True])
    api = Api(a=[[b"1Z one\n"]])
    api.become(ENDED)

    def is_over():
        answer = next(answers, True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    follow(api, is_over=is_over)
    assert capsysbinary.readouterr().out == b"one\n"


def test_pods_that_cannot_be_listed_for_a_while_are_listed_again(capsysbinary):
    api = Api(a=[[b"1Z one\n"]])
    api.found = LostService("pods are away")
    polls = iter(range(100))

    def is_over():
        if next(polls) < 2:
            return False
        api.become(ENDED)
        return True

    follow(api, is_over=is_over)
    out, err = capsysbinary.readouterr()
    assert out == b"one\n"
    assert err.count(b"pods are away (retrying for 300 s)") == 1


def test_a_log_that_may_not_be_read_ends_the_command():
    api = Api(a=[UserError("cannot read the log")])
    api.become(ENDED)
    with pytest.raises(UserError, match="cannot read the log"):
        follow(api, is_over=lambda: False)


def read(progress, text, *, is_whole=False):
    return b"".join(progress.new_lines([text], is_whole=is_whole))


def test_a_new_connection_repeats_no_line_and_loses_none():
    progress = logs._Progress()
    assert read(progress, b"1Z a\n1Z b\n2Z c\n") == b"a\nb\nc\n"
    assert read(progress, b"1Z a\n1Z b\n2Z c\n2Z d\n") == b"d\n"  # With the time stamp of the last line.
    assert read(progress, b"1Z a\n1Z b\n2Z c\n2Z d\n2Z e\n3Z f\n") == b"e\nf\n"
    assert read(progress, b"1Z a\n1Z b\n2Z c\n2Z d\n2Z e\n3Z f\n") == b""
    assert read(progress, b"2Z e\n3Z f\n3Z g\n") == b"g\n"  # The log was rotated.
    assert read(progress, b"3Z f\n3Z g\n4Z h") == b""
    assert read(progress, b"3Z f\n3Z g\n4Z h", is_whole=True) == b"h\n"


def test_time_stamps_of_different_precision_are_compared():
    progress = logs._Progress()
    assert read(progress, b"2026-01-01T00:00:01Z a\n2026-01-01T00:00:01.5Z b\n") == b"a\nb\n"
    assert read(progress, b"2026-01-01T00:00:01Z a\n2026-01-01T00:00:01.5Z b\n2026-01-01T00:00:01.51Z c\n") == b"c\n"


def test_the_text_of_a_line_keeps_its_spaces():
    assert read(logs._Progress(), b"1Z  a  b \n1Z\n") == b" a  b \n\n"
