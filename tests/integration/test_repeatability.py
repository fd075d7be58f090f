"""Training is repeatable bit for bit at the size of real posters, where the ops of one step run in parallel."""

import numpy as np
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.model import networks, objective
from trainer.training import loop


def test_training_steps_are_repeatable():
    job = TrainConfig(data_dir="d", job_dir="j", model="resnet", batch_size=64)
    random = np.random.default_rng(0)
    features = {"image": random.integers(0, 256, (64, 144, 96, 3), np.uint8), "position": np.arange(64)}
    labels = random.integers(0, 2, (64, 24)).astype(np.float32)
    batches = tf.data.Dataset.from_tensors((features, labels)).repeat()
    network = networks.build(job, genres=24, height=144, width=96)
    loop.compile_network(network, job, objective.GenreLoss())
    variables = [*network.variables, *network.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    ends = []
    for _ in range(5):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        network.fit(batches, steps_per_epoch=3, verbose=0)
        ends.append([variable.numpy() for variable in variables])
    for end in ends[1:]:
        for variable, first, again in zip(variables, ends[0], end, strict=True):
            np.testing.assert_array_equal(first, again, err_msg=variable.name)
