"""What a job's flags must fit before it trains, as a worker and a launcher check it."""

import subprocess
import sys

import pytest

from tests.support import drawn
from trainer.config import TrainConfig
from trainer.dataset import training_order
from trainer.errors import UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """203 training films in 8 shards of 25 or 26: an epoch takes 200."""
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=203, validation=10, test=7, shard_count=8)


def plan(dataset, *, workers=1, **flags):
    config = TrainConfig(data_dir="-", job_dir="-", **({"batch_size": 8, "epochs": 2} | flags))
    return config, training_order.plan(config, dataset, workers=workers)


@pytest.mark.parametrize(
    ("flags", "workers", "says"),
    [
        (
            {"batch_size": 201},
            1,
            r"^--batch_size=201 is larger than .* 200 films \(25 from each of 8 shards\): choose a smaller batch$",
        ),
        ({}, 3, "^--batch_size=8 does not divide among 3 workers"),
        (
            {"max_steps": 27, "steps_per_execution": 4},
            1,
            "^--max_steps=27 ends 2 steps into an epoch of 25 steps, which is not a multiple of --steps_per_execution=4: ",
        ),
        ({"profile_steps": "49,51"}, 1, "^--profile_steps=49,51 goes beyond the job's last step, 50: choose earlier steps$"),
        ({"profile_steps": "9,11", "max_steps": 10}, 1, "last step, 10: "),
    ],
)
def test_flags_that_do_not_fit_the_data_set_are_refused(dataset, flags, workers, says):
    with pytest.raises(UserError, match=says):
        plan(dataset, workers=workers, **flags)


def test_an_empty_split_is_refused(tmp_path):
    dataset = drawn.dataset(tmp_path, train=40, validation=0, test=3, shard_count=1)
    with pytest.raises(UserError, match="'validation'"):
        plan(dataset)


@pytest.mark.parametrize(
    ("flags", "last"), [({}, 50), ({"max_steps": 12}, 12), ({"max_steps": 99}, 50), ({"profile_steps": "49,50"}, 50)]
)
def test_the_last_step_is_the_earlier_of_max_steps_and_the_last_epochs_end(dataset, flags, last):
    assert training_order.last_step(*plan(dataset, **flags)) == last


@pytest.mark.parametrize(
    ("open_shards", "workers", "divides"), [(4, 2, True), (16, 8, True), (4, 8, False), (3, 3, False), (3, 1, True)]
)
def test_shards_that_do_not_divide_among_the_workers_are_told(dataset, open_shards, workers, divides):
    _, order = plan(dataset, batch_size=24, open_shards=open_shards)
    warning = order.warning(workers)
    assert (warning is None) == divides
    if warning:
        assert warning.startswith(f"8 training shards, {open_shards} open at a time, do not divide among {workers} workers: ")


def test_an_epoch_takes_equally_many_films_of_every_shard_in_whole_batches(dataset):
    _, order = plan(dataset, batch_size=24, open_shards=3)
    assert order.examples == (26, 26, 26, 25, 25, 25, 25, 25)
    assert [path.rpartition("/")[2] for path in order.paths][:2] == [
        "train-00000-of-00008.tfrecord",
        "train-00001-of-00008.tfrecord",
    ]
    assert (order.records_per_shard, order.steps_per_epoch, order.left_out) == (25, 8, 203 - 8 * 24)
    assert (order.open_shards, order.batch_size) == (3, 24)
    _, order = plan(dataset, batch_size=200, open_shards=99, seed=7, shuffle_window=5)
    assert (order.open_shards, order.steps_per_epoch, order.left_out) == (8, 1, 3)
    assert (order.seed, order.shuffle_window) == (7, 5)


def test_the_steps_of_an_execution_must_divide_the_last_epoch_only(dataset):
    config, order = plan(dataset, max_steps=25 + 12, steps_per_execution=4)
    assert training_order.last_step(config, order) == 37
    plan(dataset, max_steps=50, steps_per_execution=4)


def test_the_module_needs_no_tensorflow():
    code = "import sys, trainer.dataset.training_order; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
