"""Jobs on several workers that lose processes again and again, and how they end.

`tests/integration/test_chaos.py` runs a short form. `make chaos` runs the long form, and prints a Markdown table.
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
    "--log_steps=1",
)

# Added to OPTIONS in `make test`, where all results are compared with one undisturbed job: see `pair_dir`.
SHORT = ("--model=cnn", "--epochs=2")


@dataclasses.dataclass(frozen=True)
class Strike:
    """A signal to workers or guards in a phase.

    Attributes:
      phase: phase of the chief, one of `PHASES`.
      victims: processes, such as `worker 1` or `guard 0`. The worker of a killed guard dies too.
      number: signal that they receive.
    """

    phase: str
    victims: tuple[str, ...]
    number: signal.Signals = signal.SIGKILL


@dataclasses.dataclass
class Chaos:
    """A job that is struck.

    Attributes:
      folder: folder with the job's directory, its log, and the marks of its workers.
      workers: number of workers.
      uri: URI of the job's directory, if it is not on a disk.
      environment: additional variables of the processes.
    """

    folder: Path
    workers: int
    uri: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        """The job's directory on the disk."""
        return self.folder / "job"

    @property
    def log(self) -> Path:
        """The log of all processes."""
        return self.folder / "log"

    def start(self, data_dir: Path | str, *options: str, plan: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Launches the job; its chief pauses in the phases of the plan."""
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
        job = (f"--data_dir={data_dir}", f"--job_dir={self.uri or self.job_dir}", *OPTIONS, *options)
        environment = {**ENVIRONMENT, **self.environment, "CHAOS_DIR": str(marks)}
        with self.log.open("wb") as log:
            return subprocess.Popen((*launch, "--", *job), stdout=log, stderr=log, env=environment, cwd=REPOSITORY)

    def strike(self, victims: tuple[str, ...], number: signal.Signals) -> None:
        """Sends a signal to workers or guards, to all at the same time."""
        targets = []
        for victim in victims:
            kind, index = victim.split()
            guard, worker = map(int, (self.folder / "marks" / f"pids-{index}").read_text().split())
            targets.append(guard if kind == "guard" else worker)
        for pid in targets:
            # A process that is just being restarted is down already.
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def phase(self) -> str:
        """Returns the chief's phase."""
        return (self.folder / "marks" / "phase-0").read_text()

    def events(self, name: str) -> list[float]:
        """Returns when the chief's process did something, in seconds since 1970."""
        path = self.folder / "marks" / "events-0"
        lines = path.read_text().splitlines() if path.exists() else []
        return [float(moment) for moment, event in map(str.split, lines) if event == name]


def struck(chaos: Chaos, data_dir: Path | str, strikes: tuple[Strike, ...], *options: str, timeout: float = 600) -> list[float]:
    """Runs a job to its end with strikes, one after the other.

    Returns:
      For each strike before the end of training, the seconds until the next training step.
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
    """Runs a job to its end, and kills processes at random times.

    Args:
      chaos: job to run.
      data_dir: data set of the job.
      seed: seed for the times and the victims.
      kills: largest number of kills; the job may end before them.
      *options: flags of the job, added to `OPTIONS`.
      span: longest time between two kills, in seconds.

    Returns:
      The number of kills in each phase.
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
    """Returns one kill for each phase, of each of the victims in turn."""
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
