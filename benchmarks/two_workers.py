"""Gain from a second worker: two workers of one core each, and one worker, on the same global batch.

    python -m benchmarks.two_workers --model=resnet
    python -m benchmarks.two_workers --model=cnn

For comparison, two independent jobs also run, each with one core and half of the batch. They do the same work as the two workers
except for communication, waiting for each other, and in `resnet` the second pass of batch normalization over both halves.
"""

import contextlib
import functools
import json
import socket
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags

from benchmarks.lib import affinity, comparison, films, steps
from benchmarks.lib.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "resnet", ("cnn", "resnet"), "The network.")

_BATCH, _WARM_UP, _STEPS = 64, 3, 15
_ONE, _APART = "one worker on one core", "two jobs of half the batch, apart"


def workers(data_dir: Path, count: int) -> float:
    """Trains one job with one worker on each of the first cores, and returns its images per second after the warm-up."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(count)]
    environments = [{"TF_CONFIG": json.dumps(task)} for task in tasks] if count > 1 else [{}]
    with tempfile.TemporaryDirectory() as name:
        return _rates(data_dir, [f"{name}/job"] * count, environments, batch_size=_BATCH)[0]


def jobs_apart(data_dir: Path) -> float:
    """Trains two jobs at once, one core each, and returns the images per second of both together."""
    with tempfile.TemporaryDirectory() as name:
        return sum(_rates(data_dir, [f"{name}/one", f"{name}/other"], [{}, {}], batch_size=_BATCH // 2))


def _rates(data_dir: Path, job_dirs: Sequence[str], environments: Sequence[dict[str, str]], *, batch_size: int) -> list[float]:
    with contextlib.ExitStack() as stack:
        running = []
        for job_dir, environment, core in zip(job_dirs, environments, sorted(affinity.allowed_cores()), strict=False):
            command = steps.train(data_dir, job_dir, f"--model={_MODEL.value}", f"--batch_size={batch_size}")
            running.append(stack.enter_context(steps.job(command, environment=environment, cores=[core])))
        # The steps of all jobs are awaited at the same time.
        listeners = stack.enter_context(ThreadPoolExecutor(len(running)))
        moments = listeners.map(lambda job: job.steps(_STEPS), running)
        return [steps.images_per_second(found, batch_size=batch_size, first=_WARM_UP) for found in moments]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


def parameters(data_dir: Path) -> int:
    """Returns the number of trainable weights of the network for a data set."""
    from trainer.config import TrainConfig
    from trainer.dataset import manifest
    from trainer.model import networks

    dataset = manifest.load(data_dir)
    job = TrainConfig(data_dir=str(data_dir), job_dir="-", model=_MODEL.value)
    network = networks.build(job, genres=len(dataset.genres), height=dataset.height, width=dataset.width)
    return sum(int(weight.shape.num_elements()) for weight in network.trainable_variables)


def main(_: list[str]) -> None:
    """Prints the comparison."""
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        contenders = {
            OURS: functools.partial(workers, data_dir, 2),
            _ONE: functools.partial(workers, data_dir, 1),
            _APART: functools.partial(jobs_apart, data_dir),
        }
        found = comparison.in_turn(contenders)
        weights = parameters(data_dir)
    title = f"Two workers of one core each, {_MODEL.value}, global batch {_BATCH}"
    comparison.report(title, "images a second", found, [Goal((_ONE,), least=1.6)])
    shares = [1 - together / apart for together, apart in zip(found[OURS], found[_APART], strict=True)]
    print(f"- {weights:,} parameters, {4 * weights:,} bytes to reduce a step")
    print(f"- of a step, what two jobs apart do not have: {statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})")


if __name__ == "__main__":
    app.run(main)
