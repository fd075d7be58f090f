"""CutMix mixes images and labels by the same share, which depends only on the seed and the film's position."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import drawn
from trainer.dataset import training_order
from trainer.input import cutmix, pipeline

BATCH, SIDE = 8, 20


def of_one_colour(share: float, *, steps: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mixes films of one genre each, 0 to 4 in turn, whose images have the colour of that number; one step more is read."""
    number = np.arange((steps + 1) * BATCH)
    images = np.broadcast_to((number % 5).astype(np.uint8)[:, None, None, None], (len(number), SIDE, SIDE, 3))
    labels = np.eye(5, dtype=np.float32)[number % 5]
    batches = tf.data.Dataset.from_tensor_slices(({"image": images, "label": labels}, number)).batch(BATCH, drop_remainder=True)
    mixed = list(
        cutmix.mixed(batches, share=share, batches_a_step=1, seed=seed, batch_size=BATCH, parallel_calls=2).as_numpy_iterator()
    )
    assert [position.tolist() for _, position in mixed] == number[: steps * BATCH].reshape(-1, BATCH).tolist()
    return np.concatenate([films["image"] for films, _ in mixed]), np.concatenate([films["label"] for films, _ in mixed])


def test_image_and_label_are_mixed_by_one_share_with_the_film_at_the_same_index_of_the_next_step():
    areas = []
    for number, (image, label) in enumerate(zip(*of_one_colour(1.0), strict=True)):
        partner = image[:, :, 0] == (number + BATCH) % 5
        assert ((image[:, :, 0] == number % 5) ^ partner).all(), "the image shows nothing else"
        rows, columns = np.flatnonzero(partner.any(axis=1)), np.flatnonzero(partner.any(axis=0))
        assert partner.sum() == (len(rows) and np.ptp(rows) + 1) * (len(columns) and np.ptp(columns) + 1), "it is one rectangle"
        wanted = np.zeros(5)
        wanted[number % 5], wanted[(number + BATCH) % 5] = 1 - partner.mean(), partner.mean()
        np.testing.assert_allclose(label, wanted, atol=1e-6)
        areas.append(partner.mean())
    # Areas are uniform, but the edges cut some rectangles off.
    assert 0.25 < np.mean(areas) < 0.5
    assert min(areas) < 0.1
    assert max(areas) > 0.8


def test_a_share_of_the_films_is_mixed():
    _, labels = of_one_colour(0.25)
    assert 0.15 < (labels.max(axis=1) < 1).mean() < 0.3


def test_the_rectangles_of_a_seed_are_the_same_in_every_release():
    """Else a job that resumes after an update would not end as it would have."""
    _, labels = of_one_colour(1.0, steps=1)
    assert labels[:3].max(axis=1).tolist() == pytest.approx([0.6, 0.67, 0.6975], abs=1e-6)


def test_the_seed_decides_the_rectangles():
    assert (of_one_colour(1.0, steps=2)[1] != of_one_colour(1.0, steps=2, seed=1)[1]).any()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """80 training films in 4 shards."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=80, validation=2, test=2, shard_count=4, encoding="raw")


def films(dataset, *, first_step=0, worker=0, workers=1, replicas=1):
    """Images, labels and positions of two epochs, film after film."""
    order = training_order.create(dataset, batch_size=BATCH, open_shards=4, shuffle_window=10, seed=3)
    inputs = pipeline.training_dataset(
        dataset,
        order,
        replica_batch=BATCH // workers // replicas,
        first_step=first_step,
        epochs=2,
        worker=worker,
        workers=workers,
        mixed=0.5,
    )
    batches = [(features["image"], labels, features["position"]) for features, labels in inputs.as_numpy_iterator()]
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def test_a_job_that_goes_on_mixes_as_if_it_had_not_stopped(dataset):
    whole, rest = films(dataset), films(dataset, first_step=13)
    assert len(whole[0]) == 20 * BATCH
    for column, later in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(column[13 * BATCH :], later)


@pytest.mark.parametrize(("workers", "replicas"), [(2, 2), (1, 4)])
def test_workers_and_replicas_mix_the_same_films_as_one_device(dataset, workers, replicas):
    images, targets, _ = films(dataset)
    for worker in range(workers):
        own, labels, positions = films(dataset, worker=worker, workers=workers, replicas=replicas)
        np.testing.assert_array_equal(own, images[positions])
        np.testing.assert_array_equal(labels, targets[positions])
