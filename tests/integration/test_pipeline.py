"""Training reads films in the documented order, and evaluation reads every film once."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.support import drawn
from trainer.dataset import training_order
from trainer.input import pipeline


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """203 training films in 8 shards of 25 or 26, 10 validation films in 2."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=203, validation=10, test=7, shard_count=8)


def order_of(dataset, **changes):
    options = {"batch_size": 8, "open_shards": 4, "shuffle_window": 10, "seed": 3} | changes
    return training_order.create(dataset, **options)


def films(dataset, order, *, first_step=0, epochs=2, worker=0, workers=1):
    """The films that a worker trains on, in order: each image of a drawn data set shows its film's number."""
    inputs = pipeline.training_dataset(
        dataset,
        order,
        replica_batch=order.batch_size // workers,
        first_step=first_step,
        epochs=epochs,
        worker=worker,
        workers=workers,
    )
    batches = list(inputs.as_numpy_iterator())
    return [drawn.film_of(image) for features, _ in batches for image in features["image"]], batches


def test_an_epoch_has_whole_batches_and_leaves_out_fewer_films_than_shards_and_batch(dataset):
    order = order_of(dataset)
    seen, _ = films(dataset, order)
    size = order.steps_per_epoch * order.batch_size
    assert len(seen) == 2 * size
    assert order.left_out == 203 - size < 8 + 8
    for epoch in (seen[:size], seen[size:]):
        assert max(Counter(epoch).values()) == 1
    assert set(seen[:size]) != set(seen[size:]), "the films left out differ from epoch to epoch"


def test_labels_stay_with_their_images(dataset):
    _, batches = films(dataset, order_of(dataset))
    for features, labels in batches:
        for image, label in zip(features["image"], labels, strict=True):
            np.testing.assert_array_equal(label, drawn.label_of(drawn.film_of(image)))


def test_two_epochs_come_in_different_orders_and_records_move_by_half_a_shard(dataset):
    order = order_of(dataset, shuffle_window=26)
    seen, _ = films(dataset, order)
    size = len(seen) // 2
    turn = [{film: index // order.open_shards for index, film in enumerate(epoch)} for epoch in (seen[:size], seen[size:])]
    moves = [abs(turn[0][film] - turn[1][film]) for film in turn[0].keys() & turn[1].keys()]
    assert max(moves) >= order.records_per_shard / 2
    assert np.mean([move > 0 for move in moves]) > 0.9


def test_a_record_is_drawn_from_a_window_of_the_next_ones(dataset):
    order = order_of(dataset, shuffle_window=5, open_shards=1, batch_size=1)
    seen, _ = films(dataset, order, epochs=6)
    size = len(seen) // 6
    early: set[int] = set()
    for epoch in range(6):
        # Film n is record n // 8 of shard n mod 8.
        drawn_records = [(film % 8, film // 8) for film in seen[epoch * size : (epoch + 1) * size]]
        for shard in range(8):
            records = [record for of, record in drawn_records if of == shard]
            early.update(record - index for index, record in enumerate(records))
    assert max(early) == 4
    assert min(early) < -4


def test_the_shards_that_are_open_together_change_from_epoch_to_epoch(dataset):
    order = order_of(dataset, open_shards=2, batch_size=2)
    seen, _ = films(dataset, order, epochs=4)
    size = len(seen) // 4
    assert len({frozenset(film % 8 for film in seen[epoch * size :][:20]) for epoch in range(4)}) > 1


def test_the_seed_decides_the_order(dataset):
    first, _ = films(dataset, order_of(dataset), epochs=1)
    again, _ = films(dataset, order_of(dataset), epochs=1)
    other, _ = films(dataset, order_of(dataset, seed=4), epochs=1)
    assert first == again
    assert first != other


def test_the_order_of_a_seed_is_the_same_in_every_release(dataset):
    """Else a job that resumes after an update would see some films twice."""
    seen, _ = films(dataset, order_of(dataset))
    assert seen[:12] == [28, 31, 67, 57, 12, 23, 83, 49, 4, 95, 35, 89]
    assert seen[len(seen) // 2 :][:12] == [17, 63, 29, 22, 73, 47, 53, 62, 81, 95, 77, 38]


@pytest.mark.parametrize("open_shards", [1, 3, 16])
def test_training_resumes_at_any_step_as_if_it_had_not_stopped(dataset, open_shards):
    order = order_of(dataset, open_shards=open_shards)
    whole, batches = films(dataset, order)
    for step in (7, order.steps_per_epoch, order.steps_per_epoch + 13):
        rest, rest_batches = films(dataset, order, first_step=step)
        assert rest == whole[step * order.batch_size :]
        np.testing.assert_array_equal(rest_batches[0][0]["position"], batches[step][0]["position"])


@pytest.mark.parametrize(("open_shards", "workers"), [(4, 2), (4, 4), (2, 4), (3, 2)])
def test_any_number_of_workers_trains_on_the_same_global_batches(dataset, open_shards, workers):
    order = order_of(dataset, open_shards=open_shards)
    first_step = order.steps_per_epoch - 3
    whole, _ = films(dataset, order, first_step=first_step)
    together = [None] * len(whole)
    for worker in range(workers):
        own, batches = films(dataset, order, first_step=first_step, worker=worker, workers=workers)
        positions = np.concatenate([features["position"] for features, _ in batches]) - first_step * order.batch_size
        assert set(positions % workers) == {worker}
        for film, position in zip(own, positions, strict=True):
            together[position] = film
    assert together == whole


def test_resuming_opens_no_shard_of_an_earlier_round(dataset, monkeypatch):
    order = order_of(dataset, open_shards=2)
    per_round = 2 * order.records_per_shard
    skipped_rounds = 2
    first_step = -(-skipped_rounds * per_round // order.batch_size)
    seen, _ = films(dataset, order, epochs=1)
    early = {film % 8 for film in seen[: skipped_rounds * per_round]}
    assert len(early) == 2 * skipped_rounds
    # Without the files of the earlier rounds the rest must still be readable.
    paths = tuple(path if number not in early else "/nowhere" for number, path in enumerate(order.paths))
    rest, _ = films(dataset, training_order.TrainingOrder(**{**vars(order), "paths": paths}), first_step=first_step, epochs=1)
    assert rest == seen[first_step * order.batch_size :]


def test_batches_have_one_static_shape_and_uint8_images(dataset):
    order = order_of(dataset)
    features, labels = pipeline.training_dataset(dataset, order, replica_batch=4, first_step=0, epochs=1).element_spec
    assert features["image"] == tf.TensorSpec([4, dataset.height, dataset.width, 3], tf.uint8)
    assert labels == tf.TensorSpec([4, len(dataset.genres)], tf.float32)
    image, index = pipeline.evaluation_dataset(dataset, "test", replica_batch=4, replicas=2).element_spec
    assert image == tf.TensorSpec([4, dataset.height, dataset.width, 3], tf.uint8)
    assert index == tf.TensorSpec([4], tf.int64)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize(("batch", "replicas"), [(3, 1), (4, 2), (10, 1), (64, 3)])
def test_evaluation_counts_every_film_once(tmp_path, encoding, batch, replicas):
    dataset = drawn.dataset(tmp_path, train=3, validation=10, test=2, shard_count=4, encoding=encoding)
    labelled = pipeline.read_labels(dataset, "validation")
    batches = list(pipeline.evaluation_dataset(dataset, "validation", replica_batch=batch, replicas=replicas).as_numpy_iterator())
    assert len(batches) % replicas == 0
    images, index = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert Counter(index[index >= 0].tolist()) == Counter(range(10))
    for image, row in zip(images, index, strict=True):
        if row >= 0:
            assert labelled.ids[row] == drawn.film_id(drawn.film_of(image))
            np.testing.assert_array_equal(labelled.labels[row], drawn.label_of(drawn.film_of(image)))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_together_evaluate_every_film_once_in_equally_many_batches(tmp_path, workers):
    dataset = drawn.dataset(tmp_path, train=3, validation=23, test=2, shard_count=5)
    labelled = pipeline.read_labels(dataset, "validation")
    shares = [
        list(
            pipeline.evaluation_dataset(
                dataset, "validation", replica_batch=2, replicas=2 * workers, worker=worker, workers=workers
            ).as_numpy_iterator()
        )
        for worker in range(workers)
    ]
    assert len({len(share) for share in shares}) == 1, "no worker waits for another at the end"
    assert len(shares[0]) % 2 == 0, "each of its two replicas has a batch each time"
    rows = []
    for images, indices in (batch for share in shares for batch in share):
        for image, row in zip(images, indices, strict=True):
            if row >= 0:
                rows.append(int(row))
                assert labelled.ids[row] == drawn.film_id(drawn.film_of(image))
    assert sorted(rows) == list(range(23))


def test_a_worker_opens_no_shard_of_another_one_to_evaluate_where_each_has_one(tmp_path):
    dataset = drawn.dataset(tmp_path, train=3, validation=9, test=2, shard_count=3)
    for path in dataset.shard_paths("validation")[:2]:
        Path(path).unlink()
    share = pipeline.evaluation_dataset(dataset, "validation", replica_batch=2, replicas=3, worker=2, workers=3)
    rows = [row for _, found in share.as_numpy_iterator() for row in found]
    assert rows == [6, 7, 8, -1]


def test_single_images_are_read_by_row(dataset):
    ids = pipeline.read_labels(dataset, "validation").ids
    images = pipeline.read_images(dataset, "validation", [7, 2])
    assert {drawn.film_id(drawn.film_of(images[row])) for row in (7, 2)} == {ids[7], ids[2]}


def test_training_and_evaluation_see_the_pixels_that_prepare_encoded(tmp_path, monkeypatch):
    """TensorFlow's default way to decode a JPEG is quicker, and not that of Pillow."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    monkeypatch.setattr(drawn, "image_of", lambda film: noise)
    dataset = drawn.dataset(tmp_path, train=8, validation=1, test=1, shard_count=1)
    with PIL.Image.open(io.BytesIO(tf.io.encode_jpeg(noise, quality=95).numpy())) as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pipeline.read_images(dataset, "test", [0])[0], pixels)
    _, batches = films(dataset, order_of(dataset), epochs=1)
    np.testing.assert_array_equal(batches[0][0]["image"][0], pixels)


def test_synthetic_batches_look_like_real_ones(dataset):
    real = pipeline.training_dataset(dataset, order_of(dataset), replica_batch=4, first_step=0, epochs=1)
    made = pipeline.synthetic_dataset(dataset, replica_batch=4)
    assert made.element_spec == real.element_spec
    assert made.cardinality() == tf.data.INFINITE_CARDINALITY
    (features, labels), again = (
        next(iter(each.as_numpy_iterator())) for each in (made, pipeline.synthetic_dataset(dataset, replica_batch=4))
    )
    assert set(labels.flat) == {0.0, 1.0}
    assert (features["image"].min(), features["image"].max()) == (0, 255)
    assert features["position"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(features["image"], again[0]["image"])


def test_the_order_is_kept_whatever_keras_does_with_the_input_and_no_tuner_delays_the_end_of_an_iterator(dataset):
    evaluation = pipeline.evaluation_dataset(dataset, "validation", replica_batch=8, replicas=1)
    training = pipeline.training_dataset(dataset, order_of(dataset), replica_batch=8, first_step=0, epochs=1)
    for each in (training, evaluation, pipeline.synthetic_dataset(dataset, replica_batch=8)):
        options = each.options()
        assert options.autotune.enabled is False
        assert options.deterministic is True
        assert options.experimental_distribute.auto_shard_policy is tf.data.experimental.AutoShardPolicy.OFF


def test_a_damaged_record_is_noticed(tmp_path):
    dataset = drawn.dataset(tmp_path, train=40, validation=3, test=3, shard_count=4)
    path = Path(dataset.shard_paths("train")[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        films(dataset, order_of(dataset))
