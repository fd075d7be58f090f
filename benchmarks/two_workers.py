"""What a second worker brings: two workers of one core each, and one, on the same global batch.

    python -m benchmarks.two_workers

A worker alone on half of the batch does what each of the two does beside talking: what is left of their step is the exchange and
the waiting for one another.
"""

import contextlib
import functools
import json
import os
import socket
import statistics
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks import comparison, films, steps
from benchmarks.comparison import OURS, Goal

_MODEL = flags.DEFINE_enum("model", "resnet", ("cnn", "resnet"), "The network.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds that count.")

_BATCH, _WARM_UP, _STEPS = 64, 3, 15
_ONE, _HALF = "one worker on one core", "one worker on one core, half of the batch"


def rate(data_dir: Path, workers: int, *, batch_size: int = _BATCH) -> float:
    """Trains on the first cores, one a worker, and returns images a second once it runs."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        command = (sys.executable, "-m", "trainer.task", f"--data_dir={data_dir}", f"--job_dir={name}/job", "--epochs=100")
        options = (f"--model={_MODEL.value}", f"--batch_size={batch_size}")
        running = []
        for index, core in enumerate(cores):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {"TF_CONFIG": json.dumps(config)} if workers > 1 else {}
            running.append(stack.enter_context(steps.job((*command, *options), environment=environment, cores=[core])))
        return steps.images_per_second(running[0].steps(_STEPS), batch_size=batch_size, first=_WARM_UP)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


def parameters(model: str) -> int:
    """Returns how many trainable weights the network has, at the default size of pictures and the genres of the drawn films."""
    from trainer import model as networks
    from trainer.config import TrainConfig

    network = networks.build(TrainConfig(data_dir="-", job_dir="-", model=model), genres=4, height=192, width=128)
    return sum(int(weight.shape.num_elements()) for weight in network.trainable_variables)


def main(_: list[str]) -> None:
    """Prints the comparison."""
    with films.films() as given, tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        films.prepare(given, data_dir)
        contenders = {
            OURS: functools.partial(rate, data_dir, 2),
            _ONE: functools.partial(rate, data_dir, 1),
            _HALF: functools.partial(rate, data_dir, 1, batch_size=_BATCH // 2),
        }
        found = comparison.in_turn(contenders, repeats=_REPEATS.value)
    title = f"Two workers of one core each, {_MODEL.value}, global batch {_BATCH}"
    comparison.report(title, "images a second", found, [Goal((_ONE,), least=1.6)])
    weights = parameters(_MODEL.value)
    shares = [1 - two / (2 * half) for two, half in zip(found[OURS], found[_HALF], strict=True)]
    print(f"- {weights:,} parameters, {4 * weights:,} bytes to reduce a step")
    print(f"- exchange and waiting: {statistics.median(shares):.1%} of a step ({min(shares):.1%} to {max(shares):.1%})")


if __name__ == "__main__":
    app.run(main)
