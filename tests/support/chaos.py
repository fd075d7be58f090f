"""Jobs on several workers that are struck again and again, and how they end.

`tests/integration/test_chaos.py` has the short form; the long one is `make chaos`, which prints a table in Markdown.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.support import chaos_worker
from tests.support.commands import ENVIRONMENT, REPOSITORY

OPTIONS = (
    "--augment=strong",
    "--schedule=cosine",
    "--epochs=3",
    "--batch_size=12",
    "--backup_steps=3",
    "--learning_rate=0.003",
    "--peer_timeout=120",
)

# Added to them, what `make test` makes of it, where one undisturbed job is the measure of all: see `pair_dir`.
SHORT = ("--model=cnn", "--epochs=2")


@dataclasses.dataclass(frozen=True)
class Strike:
    """What happens to whom.

    Attributes:
      phase: where the chief then is, one of `PHASES`.
      victims: `worker 1`, `guard 0`, …; a guard takes its worker with it.
      number: the signal.
    """

    phase: str
    victims: tuple[str, ...]
    number: signal.Signals = signal.SIGKILL


@dataclasses.dataclass
class Chaos:
    """A job that is struck.

    Attributes:
      folder: where the job is, and the marks of its workers beside it.
      workers: how many there are.
      place: where the job's directory is, if it is not on a disk.
      environment: what the processes have in theirs besides.
    """

    folder: Path
    workers: int
    place: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        """The job's directory on a disk."""
        return self.folder / "job"

    @property
    def log(self) -> Path:
        """What all processes wrote."""
        return self.folder / "log"

    def start(self, data_dir: Path | str, *options: str, plan: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Launches the job; its chief stands still in the phases of the plan."""
        marks = self.folder / "marks"
        marks.mkdir(parents=True)
        (marks / "plan.json").write_text(json.dumps(plan))
        launch = (
            sys.executable,
            "-m",
            "tests.support.chaos_launch",
            "--target=local",
            f"--workers={self.workers}",
            "--restarts=1000",
        )
        job = (f"--data_dir={data_dir}", f"--job_dir={self.place or self.job_dir}", *OPTIONS, *options)
        environment = {**ENVIRONMENT, **self.environment, "CHAOS_DIR": str(marks)}
        with self.log.open("wb") as log:
            return subprocess.Popen((*launch, "--", *job), stdout=log, stderr=log, env=environment, cwd=REPOSITORY)

    def strike(self, victims: tuple[str, ...], number: signal.Signals) -> None:
        """Sends a signal to workers or guards, to all at the same moment."""
        targets = []
        for victim in victims:
            kind, index = victim.split()
            guard, worker = map(int, (self.folder / "marks" / f"pids-{index}").read_text().split())
            targets.append(guard if kind == "guard" else worker)
        for pid in targets:
            # One that is just being started again has been struck already, in a way.
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def phase(self) -> str:
        """Where the chief is."""
        return (self.folder / "marks" / "phase-0").read_text()

    def events(self, name: str) -> list[float]:
        """The moments at which the chief's process did something, in seconds since 1970."""
        path = self.folder / "marks" / "events-0"
        lines = path.read_text().splitlines() if path.exists() else []
        return [float(moment) for moment, event in map(str.split, lines) if event == name]


def struck(chaos: Chaos, data_dir: Path | str, strikes: tuple[Strike, ...], *options: str, timeout: float = 600) -> list[float]:
    """Runs a job to its end through strikes, one after the other.

    Returns:
      For each strike before training was over, how many seconds later the next training step was made.
    """
    process = chaos.start(data_dir, *options, plan=tuple(strike.phase for strike in strikes))
    marks = chaos.folder / "marks"
    moments = []
    try:
        for number, strike in enumerate(strikes):
            _await(marks / f"reached-{number}", process, chaos, timeout)
            moments.append(time.time())
            chaos.strike(strike.victims, strike.number)
            (marks / f"struck-{number}").touch()
        assert process.wait(timeout) == 0, chaos.log.read_text()[-5000:]
    finally:
        _end(process)
    ends = [*moments, time.time()][1:]
    firsts = [[step for step in chaos.events("step") if moment < step < end] for moment, end in zip(moments, ends, strict=True)]
    return [min(steps) - moment for moment, steps in zip(moments, firsts, strict=True) if steps]


def struck_at_random(chaos: Chaos, data_dir: Path, seed: int, kills: int, *options: str, span: float) -> Counter[str]:
    """Runs a job to its end, and kills at moments that a seed chooses.

    Args:
      chaos: the job.
      data_dir: its data set.
      seed: of the moments and the victims.
      kills: how many at most; the job may end before.
      span: seconds over which a kill's moment is drawn, from the kill before it on.

    Returns:
      How many kills fell in each phase.
    """
    draw = random.Random(seed)
    everyone = [f"{kind} {index}" for kind in ("worker", "guard") for index in range(chaos.workers)]
    phases: Counter[str] = Counter()
    process = chaos.start(data_dir, *options)
    try:
        for _ in range(kills):
            victims = tuple(draw.sample(everyone, draw.choice((1, 1, 1, 2))))
            until = time.monotonic() + draw.uniform(0, span)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            pids = [chaos.folder / "marks" / f"pids-{index}" for index in range(chaos.workers)]
            if process.poll() is not None:
                break
            if all(path.exists() for path in pids):
                phases[chaos.phase()] += 1
                chaos.strike(victims, signal.SIGKILL)
        assert process.wait(900) == 0, chaos.log.read_text()[-5000:]
    finally:
        _end(process)
    return phases


def one_a_phase(victims: tuple[tuple[str, ...], ...]) -> tuple[Strike, ...]:
    """A kill in each phase, of each of the victims in turn."""
    return tuple(Strike(phase, victims[number % len(victims)]) for number, phase in enumerate(chaos_worker.PHASES))


def _await(mark: Path, process: subprocess.Popen[bytes], chaos: Chaos, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not mark.exists():
        assert process.poll() is None, f"ended early with {process.returncode}: {chaos.log.read_text()[-5000:]}"
        assert time.monotonic() < deadline, f"{mark.name} did not come: {chaos.log.read_text()[-5000:]}"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(60)
