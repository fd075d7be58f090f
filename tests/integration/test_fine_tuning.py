"""A step of a pretrained network on two replicas, in a process that splits the CPU into two devices."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.support.commands import ENVIRONMENT, REPOSITORY
from tests.support.tiny_backbone import BATCH, FEATURES, LABELS, SIDE, about_to_learn, as_if_trained, config, tiny, use_tiny

TWO_DEVICES = """
import sys
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
from tests.integration import test_fine_tuning
test_fine_tuning.compare_a_step(sys.argv[1])
"""


def test_a_step_on_two_replicas_equals_one_on_one_replica(tmp_path):
    command = (sys.executable, "-c", TWO_DEVICES, str(tmp_path / "tiny.weights.h5"))
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compare_a_step(file):
    as_if_trained(tiny(keras.Input((SIDE, SIDE, 3)))).save_weights(file)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            with strategy.scope():
                network = about_to_learn(config(file))
            network.pretrained.multiplier.assign(0.5)
            # With a head of zeros, no gradient would reach the backbone.
            head = network.get_layer("genres").kernel
            head.assign(np.linspace(-1, 1, head.shape.num_elements()).reshape(head.shape))
            before = [weight.numpy() for weight in network.trainable_weights]
            network.fit(tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(BATCH), verbose=0)
            found.append([weight.numpy() - old for weight, old in zip(network.trainable_weights, before, strict=True)])
    for one, two in zip(*found, strict=True):
        assert np.abs(one).max() > 1e-5
        np.testing.assert_allclose(one, two, atol=0.1 * np.abs(one).max())
