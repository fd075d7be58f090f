"""How a worker whose training is done waits for the chief, with a clock that the test moves."""

import json

import pytest
from etils import epath

from trainer.errors import LostPeer, UserError
from trainer.job.job_dir import JobDir
from trainer.process import heartbeat
from trainer.training import standby

CHIEF = {"job_id": "films", "attempt": 3, "host": "a", "pid": 7, "heartbeat": 0.0}


class Waiting:
    """A worker that waits; `events` are what others do, by the seconds after which they do it."""

    def __init__(self, folder, monkeypatch):
        self.directory = JobDir(epath.Path(folder), {"epochs": 2})
        self.lock = CHIEF
        self.is_saved = True
        self.asked = 0
        self.beats: list[float] = []
        self._now = 1000.0
        self._events = {}
        monkeypatch.setattr(standby, "time", self)
        monkeypatch.setattr(heartbeat, "beat", lambda: self.beats.append(self.seconds))
        monkeypatch.setenv("POSTER_JOB_ID", "films")
        self.renew()

    def monotonic(self):
        return self._now

    def sleep(self, seconds):
        self._now += seconds
        assert self.seconds < 1000, "it would wait for ever"
        for moment in sorted(self._events):
            if moment <= self.seconds:
                self._events.pop(moment)()

    @property
    def seconds(self):
        return self._now - 1000.0

    def renew(self, **changes):
        self.lock = CHIEF | {"heartbeat": self._now} | changes
        (self.directory.path / "LOCK.json").write_text(json.dumps(self.lock))

    def leave(self):
        (self.directory.path / "LOCK.json").unlink()

    def finish(self):
        self.directory.finish({})

    def for_chief(self, *, chief=CHIEF, timeout=10.0, events=None):
        def is_saved():
            self.asked += 1
            return self.is_saved

        self._events = dict(events or {})
        standby.wait_for_chief(self.directory, chief=chief, is_saved=is_saved, timeout=timeout)


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    return Waiting(tmp_path, monkeypatch)


def test_a_worker_stays_until_the_job_is_done(waiting, caplog):
    caplog.set_level("INFO", logger="trainer")
    waiting.for_chief(events={30: waiting.finish})
    assert waiting.seconds == 30
    assert caplog.messages == [
        "training is done: waiting for the chief to evaluate and export",
        f"the chief is done: its report is {waiting.directory.evaluation}/report.html",
    ]


def test_a_job_that_is_done_is_not_waited_for(waiting):
    waiting.finish()
    waiting.for_chief()
    assert waiting.seconds == 0


def test_the_chiefs_error_is_this_workers_too(waiting):
    with pytest.raises(UserError, match=r"^the loss is nan$"):
        waiting.for_chief(events={5: lambda: waiting.directory.fail("the loss is nan")})
    assert waiting.seconds == 5


def test_a_chief_that_renews_its_lock_is_waited_for_and_the_guard_hears_of_it(waiting):
    events = dict.fromkeys(range(10, 500, 10), waiting.renew)
    waiting.for_chief(events={**events, 500: waiting.finish})
    assert waiting.seconds == 500
    assert waiting.beats == list(range(0, 500, 10)), "and a chief that hangs is not progress"


@pytest.mark.parametrize(("timeout", "lost_after"), [(10.0, 90), (90.0, 90), (300.0, 300)])
def test_a_silent_chief_is_lost_after_the_time_limit_of_at_least_90_seconds(waiting, timeout, lost_after):
    with pytest.raises(LostPeer, match=r"LOCK.json was not renewed by the chief for too long: restart the chief$"):
        waiting.for_chief(timeout=timeout)
    # At the limit itself it is not late yet.
    assert waiting.seconds == lost_after + 1


def test_silence_counts_from_the_last_sign(waiting):
    with pytest.raises(LostPeer, match="not renewed"):
        waiting.for_chief(events={50: waiting.renew})
    assert waiting.seconds == 50 + 91


def test_a_chief_that_does_not_come_back_after_training_is_lost(waiting):
    waiting.leave()
    with pytest.raises(LostPeer, match="not renewed"):
        waiting.for_chief()
    assert waiting.seconds == 91
    assert waiting.beats == []


@pytest.mark.parametrize("change", ["leave", "restart"])
def test_all_workers_train_on_if_the_chief_leaves_before_the_end_of_training_is_saved(waiting, change):
    waiting.is_saved = False
    left = waiting.leave if change == "leave" else lambda: waiting.renew(attempt=4)
    with pytest.raises(LostPeer, match=r"^the chief left before it had saved the end of training: all workers are needed"):
        waiting.for_chief(events={20: waiting.renew, 40: left})
    assert waiting.seconds == 40


@pytest.mark.parametrize("change", ["leave", "restart"])
def test_a_chief_may_start_anew_once_the_end_of_training_is_saved(waiting, change):
    waiting.is_saved = False
    left = waiting.leave if change == "leave" else lambda: waiting.renew(attempt=4)

    def save():
        waiting.is_saved = True

    def back():
        # An earlier answer stands: the chief may have moved the state since.
        waiting.is_saved = False
        waiting.renew(attempt=5)

    waiting.for_chief(events={20: save, 40: left, 60: back, 80: waiting.finish})
    assert waiting.seconds == 80
    assert waiting.asked == 21, "a state is not read again once it is the last"


def test_a_worker_that_formed_no_cluster_waits_for_whatever_chief_comes(waiting):
    waiting.for_chief(chief=None, events={20: lambda: waiting.renew(attempt=4), 30: waiting.finish})
    assert waiting.seconds == 30
