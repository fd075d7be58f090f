"""Predicting a split: each film once, with its own logits, however the batches are shared out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import drawn
from tests.support.drawn import FilmNumber
from trainer.errors import UserError
from trainer.evaluation.predict_split import SplitPredictor
from trainer.input.shard_cache import ShardCache
from trainer.process import heartbeat


@dataclass
class Workers:
    """The part of a strategy that decides which images a worker reads."""

    num_replicas_in_sync: int
    input_pipeline_id: int
    num_input_pipelines: int
    shares: list[Any] = field(default_factory=list)

    def distribute_datasets_from_function(self, share_of: Any) -> None:
        self.shares = list(share_of(self).as_numpy_iterator())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """10 films for validation, numbers 4 to 13, in 3 shards."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=4, validation=10, test=0, shard_count=3)


def predictor(dataset, *, network=None, batch_size=4, **options):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    return SplitPredictor(strategy, network or FilmNumber(), dataset, "validation", batch_size=batch_size, **options)


def films(found):
    ids = found.predictions(np.zeros((10, 3), np.float32)).ids
    return np.array([int(film.removeprefix("tt")) for film in ids])


@pytest.mark.parametrize("batch_size", [4, 10])
def test_each_film_has_its_own_logits_in_the_order_of_ids_and_labels(dataset, batch_size):
    found = predictor(dataset, batch_size=batch_size)
    numbers = films(found)
    assert sorted(numbers) == list(range(4, 14))
    np.testing.assert_array_equal(found.labels, [drawn.label_of(film) for film in numbers])
    assert found.labels.dtype == bool
    logits = found.logits()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, numbers[:, np.newaxis] * FilmNumber.WEIGHTS, rtol=1e-6)


def test_the_network_is_traced_once_for_all_epochs_and_the_guard_hears_of_each_batch(dataset, monkeypatch):
    beats = []
    monkeypatch.setattr(heartbeat, "beat", lambda: beats.append(1))
    network = FilmNumber()
    found = predictor(dataset, network=network)
    first = found.logits()
    assert len(beats) == 3
    network.gain.assign(2.0)
    np.testing.assert_allclose(found.logits(), 2 * first, rtol=1e-6)
    assert network.traced == [4]


@pytest.mark.parametrize(("batch_size", "replicas", "of_a_replica"), [(8, 2, 4), (9, 2, 5), (1, 4, 1)])
def test_the_replicas_share_a_batch_and_a_remainder_makes_each_share_one_larger(dataset, batch_size, replicas, of_a_replica):
    strategy = Workers(replicas, input_pipeline_id=0, num_input_pipelines=1)
    SplitPredictor(strategy, FilmNumber(), dataset, "validation", batch_size=batch_size)
    assert {len(images) for images, _ in strategy.shares} == {of_a_replica}
    assert len(strategy.shares) % replicas == 0, "each replica has equally many batches"
    rows = np.concatenate([rows for _, rows in strategy.shares])
    assert sorted(rows[rows >= 0]) == list(range(10))


def test_what_the_replicas_return_is_put_together_film_by_film(dataset, monkeypatch):
    # As if two replicas had been given the same films.
    monkeypatch.setattr(tf.distribute.OneDeviceStrategy, "gather", lambda _, value, axis: tf.concat([value, value], axis))
    found = predictor(dataset)
    np.testing.assert_allclose(found.logits(), films(found)[:, np.newaxis] * FilmNumber.WEIGHTS, rtol=1e-6)


def test_each_worker_reads_its_own_films(dataset):
    read = []
    for worker in (0, 1):
        strategy = Workers(2, input_pipeline_id=worker, num_input_pipelines=2)
        SplitPredictor(strategy, FilmNumber(), dataset, "validation", batch_size=4)
        read.append({row for _, rows in strategy.shares for row in rows.tolist()} - {-1})
    assert all(read)
    assert not read[0] & read[1]
    assert read[0] | read[1] == set(range(10))


def test_shards_are_read_through_the_cache(dataset, tmp_path):
    predictor(dataset, cache=ShardCache(dataset, str(tmp_path))).logits()
    copies = [path.name for path in tmp_path.rglob("*.tfrecord")]
    assert sorted(copies) == [shard.name for shard in dataset.split("validation").shards]


def test_a_network_that_has_diverged_is_one_line_with_a_remedy(dataset):
    network = FilmNumber()
    network.gain.assign(float("nan"))
    with pytest.raises(UserError, match=r"outputs are not finite: lower --learning_rate or raise --warmup_epochs"):
        predictor(dataset, network=network).logits()


def test_scores_are_the_sigmoid_of_the_logits_at_the_temperature(dataset):
    found = predictor(dataset)
    logits = np.linspace(-8, 8, 30, dtype=np.float32).reshape(10, 3)
    for temperature, predictions in ((1.0, found.predictions(logits)), (2.0, found.predictions(logits, 2.0))):
        np.testing.assert_allclose(predictions.scores, 1 / (1 + np.exp(-logits / temperature)), rtol=1e-5)
        assert predictions.genres == drawn.GENRES
        np.testing.assert_array_equal(predictions.labels, found.labels)


def test_a_split_without_films_is_refused(dataset):
    with pytest.raises(UserError, match="test"):
        SplitPredictor(tf.distribute.get_strategy(), FilmNumber(), dataset, "test", batch_size=4)
