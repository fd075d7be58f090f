"""How long a killed worker costs: two local workers, from a kill -9 to the next training step, and a fresh start of the same job.

python -m benchmarks.recovery
"""

import statistics
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks import comparison
from benchmarks.comparison import OURS, Goal
from tests import drawn
from tests.chaos import Chaos, Strike, struck
from tests.chaos_worker import EPOCH

_REPEATS = flags.DEFINE_integer("repeats", 3, "Jobs, of each of which both workers are killed, one after the other.")


def main(_: list[str]) -> None:
    """Prints the comparison."""
    fresh = "a fresh start, to its first step"
    found: dict[str, list[float]] = {OURS: [], fresh: []}
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        drawn.dataset(data_dir, train=170, validation=30, test=37, shard_count=8)
        for number in range(_REPEATS.value):
            job = Chaos(Path(name) / str(number), workers=2)
            strikes = (Strike(EPOCH, ("worker 1",)), Strike(EPOCH, ("worker 0",)))
            found[OURS].append(statistics.mean(struck(job, data_dir, strikes, "--model=resnet")))
            found[fresh].append(job.events("step")[0] - job.events("start")[0])
    title = "From a kill of one of two local workers to the next step"
    comparison.report(title, "seconds", found, [Goal((fresh,), most=1.3)])


if __name__ == "__main__":
    app.run(main)
