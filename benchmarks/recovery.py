"""Time lost to a killed worker: from a kill -9 of one of two local workers to the next training step, and a fresh start of the job.

    python -m benchmarks.recovery

The job is the one of `make chaos`: `resnet` on images of 16 × 16. Its steps take almost no time, so process starts dominate.
"""

import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks.lib import comparison
from benchmarks.lib.comparison import OURS, Goal
from tests.support import drawn
from tests.support.chaos import Chaos, Strike, struck
from tests.support.chaos_worker import EPOCH

_JOBS = flags.DEFINE_integer("jobs", 3, "Jobs that are measured. In each, both workers are killed, one after the other.")


def main(_: list[str]) -> None:
    """Prints the comparisons."""
    fresh = "a fresh start, to its first step"
    victims = {"the chief": "worker 0", "the other worker": "worker 1"}
    found: dict[str, dict[str, list[float]]] = {who: {OURS: [], fresh: []} for who in victims}
    strikes = tuple(Strike(EPOCH, (worker,)) for worker in victims.values())
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        drawn.dataset(data_dir, train=170, validation=30, test=37, shard_count=8)
        for number in range(_JOBS.value + 1):
            job = Chaos(Path(name) / str(number), workers=2)
            began = time.time()
            seconds = struck(job, data_dir, strikes, "--model=resnet")
            if not number:  # The first job only warms up the system's file cache.
                continue
            for who, outage in zip(victims, seconds, strict=True):
                found[who][OURS].append(outage)
                found[who][fresh].append(job.events("step")[0] - began)
    for who, measured in found.items():
        title = f"From a kill of {who}, of two local ones, to the next step"
        comparison.report(title, "seconds", measured, [Goal((fresh,), most=1.3)])


if __name__ == "__main__":
    app.run(main)
