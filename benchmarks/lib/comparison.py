"""Measures contenders in turn, and prints the table of results.

The speed of a shared machine drifts by more than the differences that a benchmark should show. So each round measures every
contender once, starting with a different one, and ratios are taken within a round. The table shows the median, the smallest and the
largest of the rounds' ratios.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from absl import flags

from benchmarks.lib import affinity

_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds that count.", lower_bound=1)

OURS = "this project"
REPOSITORY = Path(__file__).parents[2]

_PACKAGES = ("tensorflow", "tf_keras", "keras", "torch", "grain", "pillow", "simplejpeg", "opencv-python-headless")


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound for the ratio of this project's value to another contender's.

    Attributes:
      against: names of the other contenders. The best of them counts.
      least: lower bound for the ratio, where high values are good.
      most: upper bound for the ratio, where low values are good.
    """

    against: Sequence[str]
    least: float | None = None
    most: float | None = None


def in_turn(contenders: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measures each contender `--repeats` times, after a warm-up round; returns the values by name."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(_REPEATS.value + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = contenders[name]()
            if number:
                found[name].append(value)
    return found


@contextlib.contextmanager
def apart(*makers: tuple[Callable[..., Callable[[], float]], Sequence[object]]) -> Iterator[list[Callable[[], float]]]:
    """Runs each contender in its own process, which lives until the block ends and is stopped while others are measured.

    Args:
      makers: for each contender, a function of a module and its arguments. The process calls it; it sets the contender up and
        returns a function that measures it.

    Yields:
      For each contender, a function that measures it in its process.
    """
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_in_process(make, arguments)) for make, arguments in makers]


@contextlib.contextmanager
def _in_process(make: Callable[..., Callable[[], float]], arguments: Sequence[object]) -> Iterator[Callable[[], float]]:
    context = multiprocessing.get_context("spawn")
    end, far_end = context.Pipe()
    process = context.Process(target=_serve, args=(far_end, make, arguments))
    process.start()
    far_end.close()
    pid = process.pid
    assert pid is not None

    def stopped_after_answer() -> float:
        answer = end.recv()
        # Otherwise its threads would go on loading while others are measured.
        os.kill(pid, signal.SIGSTOP)
        return answer

    def measure() -> float:
        os.kill(pid, signal.SIGCONT)
        end.send(None)
        return stopped_after_answer()

    try:
        stopped_after_answer()  # It is set up.
        yield measure
    finally:
        process.kill()
        process.join()
        end.close()


def _serve(connection: Connection, make: Callable[..., Callable[[], float]], arguments: Sequence[object]) -> None:
    measure = make(*arguments)
    connection.send(0.0)
    while True:
        connection.recv()
        connection.send(measure())


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Limits this process, and processes that it starts meanwhile, to the first `count` of its cores."""
    allowed = affinity.allowed_cores()
    affinity.limit_to(sorted(allowed)[:count])
    try:
        yield
    finally:
        affinity.limit_to(allowed)


def rate(work: Callable[[], object], images: int) -> Callable[[], float]:
    """Does the work once to build and compile everything; returns a function that repeats it and returns the images per second."""
    work()

    def measure() -> float:
        began = time.monotonic()
        work()
        return images / (time.monotonic() - began)

    return measure


def run(command: Sequence[str]) -> None:
    """Runs a command to its end.

    Raises:
      RuntimeError: the command failed; the message has the end of its stderr.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def report(title: str, unit: str, found: Mapping[str, Sequence[float]], goals: Sequence[Goal] = ()) -> None:
    """Prints the values as a Markdown table, this project's first, and whether the goals were reached."""
    print(f"\n**{title}** ({unit}; median of {len(found[OURS])} rounds, least to greatest)\n")
    print("| | median | range | this project / it | range |")
    print("|---|---|---|---|---|")
    for name, values in found.items():
        cells = [name, _short(statistics.median(values)), _range(values)]
        ratios = _ratios(found, name)
        cells += ["", ""] if name == OURS else [_short(statistics.median(ratios)), _range(ratios)]
        print("| " + " | ".join(cells) + " |")
    print()
    for goal in goals:
        print(f"- {_verdict(found, goal)}")
    print(f"\nOn {machine()}", flush=True)


def machine() -> str:
    """Returns what the results depend on: the processor, the cores that this process may use, the memory, the package versions."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    releases = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            releases.append(f"{package} {importlib.metadata.version(package)}")
    return f"{processor}, {len(affinity.allowed_cores())} core(s), {memory:.0f} GiB; {', '.join(releases)}"


def _verdict(found: Mapping[str, Sequence[float]], goal: Goal) -> str:
    best = max if goal.least is not None else min
    other = best(goal.against, key=lambda name: statistics.median(found[name]))
    ratio = statistics.median(_ratios(found, other))
    least, most = goal.least or 0.0, goal.most or math.inf
    bound = f"at least {least:g}" if goal.least is not None else f"at most {most:g}"
    reached = least <= ratio <= most
    return f"{_short(ratio)} × {other}, to be {bound}: {'reached' if reached else 'NOT reached'}"


def _ratios(found: Mapping[str, Sequence[float]], other: str) -> list[float]:
    return [ours / theirs for ours, theirs in zip(found[OURS], found[other], strict=True)]


def _range(values: Sequence[float]) -> str:
    return f"{_short(min(values))} to {_short(max(values))}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
