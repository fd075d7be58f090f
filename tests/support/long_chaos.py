"""`make chaos`: kills workers of jobs in every phase and at random, and prints the results as a Markdown table."""

import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support import drawn
from tests.support.chaos import Chaos, one_a_phase, struck, struck_at_random
from tests.support.chaos_worker import PHASES
from tests.support.jobs import assert_equal

_LEAST_RANDOM_KILLS = 30


def main(folder: Path) -> None:
    """Runs all jobs; fails at the first one whose results differ from the undisturbed job's."""
    data_dir = folder / "data"
    drawn.dataset(data_dir, train=170, validation=30, test=37, shard_count=8)
    _say("| job | kills | same result | seconds from a kill to the next step, median | a fresh start |", "|---|---|---|---|---|")
    victims = {
        "worker 1": (("worker 1",),),
        "worker 0, the chief": (("worker 0",),),
        "both workers": (("worker 0", "worker 1"),),
        "a guard": (("guard 1",), ("guard 0",)),
    }
    turns = tuple(itertools.chain.from_iterable(victims.values()))
    cnn = _undisturbed(folder, data_dir, 2, "--model=cnn")
    for who, each in victims.items():
        _strike(cnn, folder / who, data_dir, f"`cnn`, 2 workers, kill -9 of {who}", each, "--model=cnn")
    resnet = _undisturbed(folder, data_dir, 2, "--model=resnet")
    _strike(resnet, folder / "resnet", data_dir, "`resnet`, 2 workers, kill -9 in turn", turns, "--model=resnet")
    several = ("--model=cnn", "--steps_per_execution=4")
    _strike(_undisturbed(folder, data_dir, 2, *several), folder / "several", data_dir, "4 steps a call, in turn", turns, *several)
    three = _undisturbed(folder, data_dir, 3, "--model=resnet")
    all_three = (*turns, ("worker 2",), ("worker 0", "worker 1", "worker 2"))
    _strike(three, folder / "three", data_dir, "`resnet`, 3 workers, kill -9 in turn", all_three, "--model=resnet")
    _random(resnet, folder, data_dir, "--model=resnet")


def _undisturbed(folder: Path, data_dir: Path, workers: int, *options: str) -> Chaos:
    whole = Chaos(folder / "-".join(["whole", str(workers), *options]).replace("=", "-"), workers)
    struck(whole, data_dir, (), *options)
    return whole


def _strike(whole: Chaos, folder: Path, data_dir: Path, name: str, victims: tuple[tuple[str, ...], ...], *options: str) -> None:
    job = Chaos(folder, whole.workers)
    strikes = one_a_phase(victims)
    seconds = struck(job, data_dir, strikes, *options)
    assert_equal(whole.job_dir, job.job_dir)
    fresh = whole.events("step")[0] - whole.events("start")[0]
    _say(f"| {name} | {len(strikes)}, one a phase | yes | {statistics.median(seconds):.1f} | {fresh:.1f} |")


def _random(whole: Chaos, folder: Path, data_dir: Path, *options: str) -> None:
    """Kills at random times in whole runs, until there are enough kills. They rarely hit short phases, which are covered above."""
    phases: Counter[str] = Counter()
    started = time.time()
    for seed in itertools.count():
        job = Chaos(folder / f"random-{seed}", whole.workers)
        phases += struck_at_random(job, data_dir, seed, 6, *options, span=25)
        assert_equal(whole.job_dir, job.job_dir)
        _say(f"<!-- seed {seed}: {dict(phases)}, {time.time() - started:.0f} s -->")
        if phases.total() >= _LEAST_RANDOM_KILLS:
            break
    counts = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES)
    _say(f"| `resnet`, 2 workers, at random moments, {seed + 1} runs | {phases.total()}: {counts} | yes | | |")


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
