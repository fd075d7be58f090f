"""The networks, augmentation and dropout, and what their results depend on."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.input import stateless
from trainer.model import augment, efficientnet_lite, layers, networks, objective

BATCH = 8


def config(**changes):
    return TrainConfig(data_dir="d", job_dir="j", **({"batch_size": BATCH} | changes))


def build(**changes):
    return networks.build(config(**changes), genres=5, height=48, width=32)


def batch(step=3, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (BATCH, 48, 32, 3), np.uint8)
    return {"image": tf.constant(images), "position": tf.range(step * BATCH, (step + 1) * BATCH, dtype=tf.int64)}


@pytest.fixture(autouse=True, scope="module")
def float32_afterwards():
    yield
    build(precision="float32")


def part(features, rows):
    return {name: value[rows] for name, value in features.items()}


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_head_and_the_weights_are_float32(precision):
    network = build(precision=precision, augment="light")
    assert network.output.dtype == tf.float32
    assert {weight.dtype for weight in network.trainable_weights} == {tf.float32}
    computed = network.get_layer("stem").compute_dtype
    assert computed == precision.removeprefix("mixed_")


def test_the_same_seed_gives_the_same_weights():
    first, again, other = (build(seed=seed).get_weights() for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_augmentation_and_dropout_of_a_film_do_not_depend_on_the_rest_of_its_batch():
    network = build(model="cnn", augment="strong", dropout=0.6)
    whole = network(batch(), training=True)
    halves = [network(part(batch(), rows), training=True) for rows in (slice(0, None, 2), slice(1, None, 2))]
    np.testing.assert_allclose(whole[0::2], halves[0], atol=1e-5)
    np.testing.assert_allclose(whole[1::2], halves[1], atol=1e-5)


def test_augmentation_and_dropout_change_with_step_and_index_and_only_in_training():
    network = build(model="cnn", augment="light")
    same_image = {**batch(), "image": tf.repeat(batch()["image"][:1], BATCH, 0)}
    logits = network(same_image, training=True).numpy()
    assert len(np.unique(logits.round(6), axis=0)) == BATCH
    later = network({**same_image, "position": batch(step=4)["position"]}, training=True).numpy()
    assert (logits != later).any(axis=1).all()
    still = network(same_image, training=False).numpy()
    np.testing.assert_allclose(still, np.repeat(still[:1], BATCH, 0), atol=1e-6)


def test_an_image_and_its_mirror_image_have_the_same_logits_if_training_mirrors_images():
    image = batch()["image"]
    mirrored = image[:, :, ::-1]
    network = build(model="cnn", augment="light")
    np.testing.assert_allclose(networks.logits(network, image), networks.logits(network, mirrored), atol=1e-6)
    network = build(model="cnn", augment="none")
    assert not np.allclose(networks.logits(network, image), networks.logits(network, mirrored))
    np.testing.assert_array_equal(networks.logits(network, image), network(batch(), training=False))


def settled(network):
    """Gives each weight values that depend on its place and its kind alone."""
    for place, weight in enumerate(network.weights):
        values = np.random.default_rng(place).uniform(-1, 1, weight.shape)
        if "kernel" in weight.name:
            # He's initialization; of a depthwise kernel the channels are not summed.
            summed = weight.shape[:2] if "depthwise" in weight.name else weight.shape[:-1]
            weight.assign(values * np.sqrt(6 / np.prod(summed)))
        else:
            weight.assign(values / 4 + ("gamma" in weight.name or "variance" in weight.name))
    return network


@pytest.mark.parametrize(
    ("model", "logits", "in_training"),
    [
        ("cnn", [2.2401, 2.724, -3.6931, -7.0391, 4.6387], [2.761, 2.4367, -4.7268, -8.4345, 3.5769]),
        ("resnet", [-1.5788, 0.2337, 2.9694, -2.233, -4.3064], [-0.2244, -0.5312, -0.8386, -1.2609, -1.6488]),
        ("efficientnet_lite0", [-2.5785, 2.7055, 1.5809, -2.7769, 2.1599], [-0.2899, 1.4669, -0.4334, -0.2585, 1.0571]),
    ],
)
def test_a_network_computes_with_its_weights_what_it_always_did(model, logits, in_training, monkeypatch):
    # So that the weights of an earlier version's job mean the same, and that it goes on with the same dropout and augmentation. Of
    # efficientnet_lite0 one block of each kind.
    monkeypatch.setattr(efficientnet_lite, "_STAGES", ((1, 3, 1, 1, 16), (2, 5, 2, 6, 24), (1, 3, 1, 6, 32)))
    network = settled(build(model=model))
    np.testing.assert_allclose(networks.logits(network, batch()["image"][:1])[0], logits, rtol=2e-3)
    np.testing.assert_allclose(network(batch(), training=True)[0], in_training, rtol=2e-3, atol=1e-3)


def test_a_training_step_returns_more_metrics_beside_its_own():
    network = build(model="cnn")
    network.compile(optimizer=objective.optimizer(config()), loss=objective.GenreLoss())
    before = network.get_layer("genres").bias.numpy()
    network.more_metrics = lambda: {"more": tf.constant(7.0)}
    returned = network.train_step((batch(), tf.zeros([BATCH, 5])))
    assert returned.keys() == {"loss", "more"}
    assert returned["more"] == 7
    assert (network.get_layer("genres").bias.numpy() != before).all()


def test_dropout_drops_its_share_and_keeps_the_mean():
    layer = layers.Dropout(0.25, seed=0, stream=1, batch_size=BATCH)
    dropped = layer((tf.ones([BATCH, 4, 4, 4096]), batch()["position"]), training=True).numpy()
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert (dropped.std(axis=(1, 2)) == 0).all(), "whole channels are dropped"


def test_random_numbers_are_uniform_and_streams_are_independent():
    draws = [
        stateless.uniform(batch(step)["position"], 500, seed=0, stream=stream, batch_size=BATCH).numpy()
        for step, stream in ((0, 0), (0, 1), (1, 0))
    ]
    for numbers in draws:
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert numbers.mean() == pytest.approx(0.5, abs=0.02)
    for first, second in ((0, 1), (0, 2)):
        assert abs(np.corrcoef(draws[first].ravel(), draws[second].ravel())[0, 1]) < 0.05


class TestAugment:
    def images(self, height=40, width=30):
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        one = np.stack([rows / height, columns / width, np.full_like(rows, 0.5)], axis=-1)
        return tf.constant(np.repeat(one[np.newaxis], BATCH, 0))

    def apply(self, strength, images=None):
        layer = augment.Augment(strength, seed=0, batch_size=BATCH)
        return layer((self.images() if images is None else images, batch()["position"]), training=True).numpy()

    def test_crops_show_a_part_of_the_image_sometimes_flipped(self):
        changed = self.apply(augment.Strength(smallest_area=0.4, aspect=1.0, brightness=0, contrast=0))
        flipped = 0
        for image in changed:
            rows, columns = image[:, :, 0].mean(axis=1), image[:, :, 1].mean(axis=0)
            assert (np.diff(rows) >= 0).all(), "a poster is never upside down"
            rising = columns[-1] > columns[0]
            flipped += not rising
            assert (np.diff(columns if rising else columns[::-1]) >= 0).all()
            # A crop's share of a side is the square root of its share of the area.
            assert 0.4**0.5 - 0.06 <= rows[-1] - rows[0] + 1 / 40 <= 1.001
        assert 0 < flipped < BATCH

    def test_light_changes_stay_within_their_strength(self):
        grey = tf.fill([BATCH, 16, 16, 3], 0.5)
        changed = self.apply(augment.Strength(smallest_area=1, aspect=1, brightness=0.2, contrast=0.5), grey)
        assert changed.min() >= 0.3 - 1e-6
        assert changed.max() <= 0.7 + 1e-6
        assert len(np.unique(changed.mean(axis=(1, 2, 3)).round(4))) == BATCH

    def test_the_weakest_strength_only_mirrors(self):
        changed = self.apply(augment.Strength(smallest_area=1, aspect=1, brightness=0, contrast=0))
        for image, original in zip(changed, self.images().numpy(), strict=True):
            nearer = min(np.abs(image - side).max() for side in (original, original[:, ::-1]))
            assert nearer < 1e-5

    def test_values_stay_in_range(self):
        noise = tf.random.stateless_uniform([BATCH, 16, 16, 3], [0, 0])
        changed = self.apply(augment.STRENGTHS["strong"], noise)
        assert changed.min() >= 0
        assert changed.max() <= 1

    @pytest.mark.parametrize(
        ("strength", "means", "corners"),
        [
            (
                "light",
                [0.448, 0.554, 0.502, 0.391, 0.576, 0.460, 0.526, 0.456],
                [0, 0.986, 0.045, 0.018, 0.156, 0.865, 0.978, 0.781],
            ),
            ("strong", [0.413, 0.616, 0.513, 0.296, 0.659, 0.431, 0.565, 0.419], [0, 1, 0.089, 0.010, 0.303, 0.767, 0.997, 0.625]),
        ],
    )
    def test_the_changes_at_a_position_are_those_of_earlier_versions(self, strength, means, corners):
        # So that a job that an earlier version began goes on with the same images.
        changed = self.apply(augment.STRENGTHS[strength])
        np.testing.assert_allclose(changed.mean(axis=(1, 2, 3)), means, atol=1e-3)
        np.testing.assert_allclose(changed[:, 0, 0, 1], corners, atol=1e-3)
