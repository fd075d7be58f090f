"""The workers stop after the same step, and do not train together on different jobs, states or weights."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import LostPeer, Stopped, UserError
from trainer.training import consensus
from trainer.training.checkpoints import Progress
from trainer.training.consensus import StopVote


class Workers:
    """A strategy whose replicas have this worker's number plus a difference each; the first replica is the chief's."""

    def __init__(self, *differences, breaks_in_round=0):
        self._differences = differences
        self._breaks_in_round = breaks_in_round
        self.sent: list[int] = []

    def run(self, function, args):
        return function(*args)

    def gather(self, value, axis):
        (number,) = value.numpy().tolist()
        self.sent.append(number)
        if len(self.sent) == self._breaks_in_round:
            raise tf.errors.UnavailableError(None, None, "a peer is gone")
        return tf.concat([value + difference for difference in self._differences], axis)


@pytest.fixture(autouse=True)
def _eagerly(monkeypatch):
    # So that the strategy above sees numbers.
    monkeypatch.setattr(tf, "function", lambda function: function)


class Voter:
    """A worker that takes steps; Keras's sum of the votes is its own vote and those of the others."""

    def __init__(self, *, workers=2):
        self.asked = False
        self.vote = StopVote(lambda: self.asked, workers=workers)

    def step(self, *, others=0.0):
        self.vote.before_step()
        logs = {"loss": 0.5}
        logs |= {name: value + others for name, value in self.vote.metrics().items()}
        stops = self.vote.after_step(logs)
        assert logs == {"loss": 0.5}, "the vote is no metric of the job"
        return stops


@pytest.mark.parametrize("others", [0.0, 1.0])
def test_workers_stop_one_step_after_the_first_vote(others):
    voter = Voter()
    assert [voter.step() for _ in range(3)] == [False, False, False]
    voter.asked = not others
    assert voter.step(others=others) is False, "the vote of this step is not waited for"
    assert voter.step(others=others) is True


def test_a_worker_that_was_not_asked_casts_no_vote():
    voter = Voter()
    assert float(voter.vote.metrics()["stop"]) == 0.0
    voter.vote.before_step()
    assert float(voter.vote.metrics()["stop"]) == 0.0
    voter.asked = True
    voter.vote.before_step()
    assert float(voter.vote.metrics()["stop"]) == 1.0


def test_a_single_worker_stops_at_once_and_adds_nothing_to_the_step():
    voter = Voter(workers=1)
    assert voter.vote.metrics() == {}
    assert voter.step() is False
    voter.asked = True
    assert voter.step() is True


def test_the_vote_is_not_a_weight():
    vote = StopVote(lambda: False, workers=2)
    with tf.GradientTape() as tape:
        vote.metrics()
    assert not tape.watched_variables()


def test_the_worker_that_was_asked_stops_and_the_others_wait_for_it():
    voter = Voter()
    with pytest.raises(LostPeer, match=r"^another worker was asked to stop; the state is saved at step 7$"):
        voter.vote.leave(7)
    voter.asked = True
    with pytest.raises(Stopped, match=r"^asked to stop; the state is saved at step 7$"):
        voter.vote.leave(7)


def progress_at(step, **values):
    progress = Progress()
    progress.step = step
    for name, value in values.items():
        setattr(progress, name, value)
    return progress


WEIGHTS = [np.zeros((2, 3), np.float32), np.ones(4, np.float32)]

CHECKS = {
    "job": lambda strategy, workers: consensus.check_same_job(strategy, {"model": "cnn"}, workers=workers),
    "weights": lambda strategy, workers: consensus.check_same_weights(strategy, WEIGHTS, workers=workers),
}
REFUSALS = {"job": "have other flags or another data set than the chief: ", "weights": "have read other weights than the chief: "}


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize(
    ("differences", "workers", "named"),
    [
        ((0, 1), 2, "1"),
        ((0, 0, 5, 0), 4, "2"),
        ((0, 3, 0, 5), 4, "1, 3"),
        # Two replicas a worker.
        ((0, 0, 0, 0, 7, 7), 3, "2"),
        ((0, 0, 7, 7, 0, 0), 3, "1"),
        ((0, 0, 7, 7, 7, 7), 3, "1, 2"),
    ],
)
def test_workers_that_differ_from_the_chief_are_named(kind, differences, workers, named):
    strategy = Workers(*differences)
    with pytest.raises(UserError, match=rf"^worker\(s\) {named} {REFUSALS[kind]}"):
        CHECKS[kind](strategy, workers)
    assert len(strategy.sent) == 2, "no worker leaves before all have the numbers"


@pytest.mark.parametrize("kind", CHECKS)
def test_workers_that_are_alike_go_on_after_one_round(kind):
    strategy = Workers(0, 0, 0)
    CHECKS[kind](strategy, 3)
    assert len(strategy.sent) == 1


@pytest.mark.parametrize("kind", CHECKS)
def test_a_worker_that_leaves_during_the_second_round_changes_nothing(kind):
    with pytest.raises(UserError, match=r"^worker\(s\) 1 "):
        CHECKS[kind](Workers(0, 1, breaks_in_round=2), 2)
    with pytest.raises(tf.errors.UnavailableError):
        CHECKS[kind](Workers(0, 1, breaks_in_round=1), 2)


def test_workers_with_different_states_lose_each_other_and_their_steps_are_named():
    with pytest.raises(
        LostPeer, match=r"^the workers have read different states \(of steps 5, 7, 5\): give all workers one shared"
    ):
        consensus.check_same_state(Workers(0, 2, 0), progress_at(5))
    strategy = Workers(0, 0)
    consensus.check_same_state(strategy, progress_at(5))
    assert len(strategy.sent) == 1


def sent(check, value):
    """The number that a worker sends to the others for them to compare."""
    strategy = Workers(0, 0)
    check(strategy, value)
    return strategy.sent[0]


def check_job(strategy, description):
    consensus.check_same_job(strategy, description, workers=2)


def check_weights(strategy, weights):
    consensus.check_same_weights(strategy, weights, workers=2)


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (check_job, [{"a": 1}, {"a": 2}, {"a": 1, "b": 1}]),
        (
            consensus.check_same_state,
            [progress_at(5), progress_at(6), progress_at(5, history=[{"epoch": 1}]), progress_at(5, metrics=[[0.5]])],
        ),
        (check_weights, [WEIGHTS, WEIGHTS[::-1], [WEIGHTS[0], WEIGHTS[1] * 2], WEIGHTS[:1]]),
    ],
)
def test_the_number_that_workers_compare_differs_where_the_thing_does(check, values):
    numbers = [sent(check, value) for value in values]
    assert len(set(numbers)) == len(values)
    assert [sent(check, value) for value in values] == numbers
    assert all(0 <= number < 2**60 for number in numbers)
