"""The lock of a job directory: who gets it, how it stays fresh, and what its loss means."""

import json
import logging
import os
import socket
import threading
from types import SimpleNamespace

import pytest
from etils import epath

from tests.support.clock import Clock
from trainer.errors import LostPeer, LostService, UserError
from trainer.job import lock, lock_file

PATH = epath.Path("/jobs/first/LOCK.json")
BEGIN = 1_000_000.0
OWNER = {"job_id": "first", "attempt": 3, "host": "desk", "pid": 7, "heartbeat": BEGIN}


class File:
    """A lock file in memory; `fail` is raised by each operation that `failing` names."""

    def __init__(self):
        self.content = None
        self.renewed = []
        self.failing, self.fail = (), OSError("away")
        self.is_taken = True

    def _check(self, name):
        if name in self.failing:
            raise self.fail

    def read(self):
        self._check("read")
        return self.content

    def take(self, content):
        if self.is_taken:
            self.content = content
        return self.is_taken

    def renew(self, content):
        self._check("renew")
        self.renewed.append(json.loads(content)["heartbeat"])
        self.content = content

    def remove(self):
        self._check("remove")
        self.content = None

    def write(self, **changes):
        self.content = json.dumps({**OWNER, **changes}).encode()


class Released:
    """An event whose wait lets time pass. The heartbeat ends after `beats` waits, as the process does."""

    def __init__(self, clock):
        self.clock, self.beats, self.is_over = clock, 0, False

    def wait(self, seconds):
        if self.is_over or self.beats == 0:
            return True
        self.beats -= 1
        self.clock.sleep(seconds)
        return False

    def set(self):
        self.is_over = True

    def is_set(self):
        return self.is_over


class Heartbeat:
    """The thread of a lock; the test says when it runs."""

    def __init__(self, target, name, daemon):
        self.run, self.daemon, self.is_started = target, daemon, False

    def start(self):
        self.is_started = True


@pytest.fixture
def clock(monkeypatch):
    made = Clock(now=BEGIN)
    monkeypatch.setattr(lock, "time", made)
    return made


@pytest.fixture
def file(monkeypatch):
    made = File()
    monkeypatch.setattr(lock_file, "at", lambda path: made)
    return made


@pytest.fixture
def heart(monkeypatch, clock):
    """Gives the thread and the event of the lock that the test takes."""
    made = SimpleNamespace(released=Released(clock), threads=[])

    def thread(**options):
        made.threads.append(Heartbeat(**options))
        return made.threads[-1]

    monkeypatch.setattr(lock, "threading", SimpleNamespace(Thread=thread, Event=lambda: made.released, Lock=threading.Lock))
    return made


def beat(heart, times):
    heart.released.beats = times
    heart.threads[0].run()


def owner(file):
    return json.loads(file.content)


def test_a_free_directory_is_taken_and_left_free(file, clock, heart):
    with lock.held(PATH, "first") as held:
        held.check()
        assert owner(file) == {
            "job_id": "first",
            "attempt": 1,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": clock.now,
        }
    assert file.content is None
    assert heart.released.is_over


def test_a_failure_of_the_block_leaves_the_directory_free(file, heart):
    with pytest.raises(ZeroDivisionError), lock.held(PATH, "first"):
        raise ZeroDivisionError
    assert file.content is None


def test_a_lock_is_fresh_every_ten_seconds(file, clock, heart):
    with lock.held(PATH, "first"):
        (thread,) = heart.threads
        assert thread.is_started
        assert thread.daemon, "a lock does not keep its process alive"
        begun = owner(file)
        beat(heart, 3)
        assert file.renewed == [BEGIN + seconds for seconds in (10, 20, 30)]
        assert owner(file) == begun | {"heartbeat": BEGIN + 30}


def test_the_heartbeat_ends_with_the_lock(file, clock, heart):
    with lock.held(PATH, "first"):
        pass
    beat(heart, 3)
    assert file.renewed == []
    assert file.content is None


def test_a_lock_that_is_released_during_a_wait_is_not_written_again(file, clock, heart):
    with lock.held(PATH, "first") as held:
        held.leave()
        waits = iter((False, True))
        heart.released.wait = lambda seconds: next(waits)
        heart.threads[0].run()
        assert file.renewed == []


def test_a_heartbeat_does_not_overwrite_a_later_attempt(file, clock, heart):
    with lock.held(PATH, "first"):
        file.write(attempt=2)
        taken = file.content
        beat(heart, 3)
        assert (file.content, file.renewed) == (taken, [])
        assert heart.released.beats == 2, "the first look is the last"


@pytest.mark.parametrize("failure", [OSError("away"), LostService("no answer")])
def test_a_storage_that_is_away_for_a_while_does_not_end_the_heartbeat(file, clock, heart, caplog, failure):
    with lock.held(PATH, "first"):
        file.fail, file.failing = failure, ("renew",)
        with caplog.at_level(logging.WARNING):
            beat(heart, 2)
        assert caplog.messages == [f"{PATH}: the heartbeat could not be written: {failure}"] * 2
        file.failing = ()
        beat(heart, 1)
        assert file.renewed == [BEGIN + 30]


@pytest.mark.parametrize("failure", [OSError("away"), LostService("no answer")])
def test_a_storage_that_is_gone_at_the_release_does_not_spoil_the_result(file, heart, caplog, failure):
    with caplog.at_level(logging.WARNING), lock.held(PATH, "first"):
        file.fail, file.failing = failure, ("read",)
    file.failing = ()
    with caplog.at_level(logging.WARNING), lock.held(PATH, "first"):
        file.fail, file.failing = failure, ("remove",)
    assert caplog.messages == [f"{PATH} could not be removed: {failure}"] * 2


def test_a_storage_that_is_gone_at_the_release_does_not_hide_why_the_job_ended(file, heart):
    with pytest.raises(UserError, match="the reason"), lock.held(PATH, "first"):
        file.fail, file.failing = LostService("no answer"), ("read",)
        raise UserError("the reason")


def test_a_lock_that_is_left_tells_the_next_attempt(file, clock, heart):
    with lock.held(PATH, "first") as held:
        held.leave()
        assert heart.released.is_over
    assert owner(file)["attempt"] == 1
    with lock.held(PATH, "first"):
        assert owner(file)["attempt"] == 2


def test_who_lost_the_lock_stops_and_does_not_remove_it(file, heart):
    with lock.held(PATH, "first") as held:
        file.write(attempt=2)
        theirs = file.content
        with pytest.raises(LostPeer, match=rf"^{PATH} was taken by another attempt of this job, which continues it"):
            held.check()
    assert file.content == theirs


def test_a_lock_that_somebody_removed_is_lost(file, heart):
    with lock.held(PATH, "first") as held:
        file.content = None
        with pytest.raises(LostPeer):
            held.check()


def test_the_same_job_takes_over_at_once(file, clock, heart):
    file.write()
    with lock.held(PATH, "first") as held:
        held.check()
        assert owner(file)["attempt"] == 4


@pytest.mark.parametrize("take", [lock.check_free, lambda path, **options: lock.held(path, "second", **options).__enter__()])
def test_another_job_waits_until_the_heartbeat_is_a_minute_old(file, clock, heart, take):
    file.write()
    clock.now += 59
    said = (
        r"^/jobs/first belongs to job first \(process 7 on desk, seen 59 s ago\): choose another --output, or wait until that job "
        r"ends \(if it was killed, 1 s from now\)$"
    )
    with pytest.raises(UserError, match=said):
        take(PATH, flag="--output")
    with pytest.raises(UserError, match="choose another --job_dir, or wait"):
        take(PATH)
    clock.now += 1
    take(PATH)


def test_a_job_that_replaces_a_silent_one_begins_to_count_anew(file, clock, heart):
    file.write(heartbeat=clock.now - 60)
    with lock.held(PATH, "second"):
        assert (owner(file)["job_id"], owner(file)["attempt"]) == ("second", 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        json.dumps({**OWNER, "heartbeat": "now"}).encode(),
        json.dumps({**OWNER, "more": 1}).encode(),
    ],
)
def test_a_damaged_lock_belongs_to_nobody(file, heart, content):
    file.content = content
    lock.check_free(PATH)
    with lock.held(PATH, "second"):
        assert owner(file)["attempt"] == 1


@pytest.mark.parametrize(
    ("other", "end", "said"),
    [
        ("first", LostPeer, "was taken by another attempt of this job at the same moment: run the same command again"),
        ("second", UserError, "was taken by job second at the same moment: choose another --job_dir"),
    ],
)
def test_the_later_of_two_takers_is_told_who_was_faster(file, heart, other, end, said):
    file.is_taken = False
    reads = iter([None, json.dumps({**OWNER, "job_id": other}).encode()])
    file.read = lambda: next(reads)
    with pytest.raises(end, match=f"^{PATH} {said}$"), lock.held(PATH, "first"):
        pass
    assert heart.threads == []


def test_a_faster_taker_that_is_gone_again_has_no_name(file, heart):
    file.is_taken = False
    with pytest.raises(UserError, match="was taken by job None at the same moment"), lock.held(PATH, "first"):
        pass


def test_two_contents_name_the_same_owner_whatever_their_heartbeats():
    assert lock.is_same(OWNER, {**OWNER, "heartbeat": 5.0})
    for name, value in {"job_id": "second", "attempt": 4, "host": "other", "pid": 8}.items():
        assert not lock.is_same(OWNER, {**OWNER, name: value})
    assert not lock.is_same(OWNER, None)
    assert not lock.is_same(None, OWNER)
    assert not lock.is_same(None, None)


def test_the_content_of_a_lock_is_read(file):
    assert lock.read(PATH) is None
    file.write()
    assert lock.read(PATH) == OWNER
    file.write(heartbeat=5)
    assert lock.read(PATH) == {**OWNER, "heartbeat": 5}
    file.content = b"{"
    assert lock.read(PATH) == {"job_id": None, "attempt": 0, "host": "unknown", "pid": 0, "heartbeat": 0.0}


def test_on_a_disk_another_job_is_refused_with_the_name_of_the_owner(tmp_path):
    path = epath.Path(tmp_path) / "LOCK.json"
    with (
        lock.held(path, "first"),
        pytest.raises(UserError, match=r"belongs to job first \(process \d+ on "),
        lock.held(path, "second"),
    ):
        pass
    with lock.held(path, "second"):
        pass
    assert not path.exists()


def test_on_a_disk_the_same_job_takes_over_and_the_earlier_attempt_stops_writing(tmp_path):
    path = epath.Path(tmp_path) / "LOCK.json"
    with lock.held(path, "job") as earlier:
        earlier.check()
        with lock.held(path, "job") as later:
            later.check()
            assert json.loads(path.read_text())["attempt"] == 2
            with pytest.raises(LostPeer, match="another attempt"):
                earlier.check()
            earlier.release()
            assert path.exists(), "who has lost the lock does not take it away"
