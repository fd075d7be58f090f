"""Random numbers depend on the seed, the step and the film's place in the batch, and on nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.input import stateless

BATCH = 8


def drawn(positions, *, numbers=2, seed=3, stream=5, batch_size=BATCH):
    found = stateless.uniform(tf.constant(positions, tf.int64), numbers, seed=seed, stream=stream, batch_size=batch_size)
    assert found.dtype == tf.float32
    return found.numpy()


def test_numbers_are_uniform_from_0_to_below_1():
    found = drawn(range(1024), numbers=16, batch_size=1024)
    assert found.shape == (1024, 16)
    assert 0 <= found.min() < 0.001
    assert 0.999 < found.max() < 1
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert found.std() == pytest.approx(12**-0.5, abs=0.01)


def test_a_seed_draws_the_same_numbers_in_every_release():
    """Else a job that resumes after an update would not end as it would have."""
    expected = [[0.8010786175727844, 0.08795952796936035], [0.632402777671814, 0.38113099336624146]]
    assert drawn([16, 17]).tolist() == expected


def test_a_film_gets_the_same_numbers_on_any_replica_of_any_worker():
    step = range(2 * BATCH, 3 * BATCH)
    whole = drawn(step)
    for part in (step[1::2], step[:3], step[5:]):
        np.testing.assert_array_equal(drawn(part), whole[[position % BATCH for position in part]])


def test_films_steps_seeds_and_streams_draw_different_numbers():
    found = [drawn([16])[0, 0], drawn([17])[0, 0], drawn([24])[0, 0], drawn([16], seed=4)[0, 0], drawn([16], stream=6)[0, 0]]
    assert len(set(found)) == len(found)
