"""Two workers on separate hosts whose network is cut: both exit within a minute, and the job's results stay the same.

Each test prints how long the workers took to exit. POSTER_LONG=1 adds cuts other than silent loss in the middle of training.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import namespaces
from tests.support.commands import ENVIRONMENT, REPOSITORY
from tests.support.jobs import assert_equal, train

# In the log of a worker that waits for its peers, of one that has seen them, and of a guard that restarts a worker.
WAITS, MEETS, REJOINS = "waiting for 1 peer, up to", "all 2 workers answer", "the worker rejoins the others"

HOSTS = ("worker-0.posters", "worker-1.posters")
OTHER = HOSTS[1]

OPTIONS = ("--model=cnn", "--epochs=6")
STEPS = 60

# Seconds within which a worker that lost a peer must exit.
MINUTE = 60.0

pytestmark = pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")


@dataclasses.dataclass
class Job:
    """A job whose guards run on the hosts of a network.

    Attributes:
      network: network of its hosts.
      data_dir: its data set, on a disk that stays reachable.
      folder: folder with its directory and the logs, on the same disk.
    """

    network: namespaces.Network
    data_dir: Path
    folder: Path
    _guards: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    @property
    def job_dir(self) -> Path:
        """The job's directory."""
        return self.folder / "job"

    def start(self, *options: str) -> None:
        """Starts a guard on each host that runs none."""
        _, *flags = train(self.data_dir, self.job_dir, *OPTIONS, *options)
        self._guards = []
        for index, host in enumerate(HOSTS):
            tf_config = {"cluster": {"worker": [f"{name}:2222" for name in HOSTS]}, "task": {"type": "worker", "index": index}}
            environment = ENVIRONMENT | {"TF_CONFIG": json.dumps(tf_config), "POSTER_JOB_ID": "cut-1"}
            with self._log(host).open("ab") as log:
                command = (*self.network.on(host), sys.executable, "-m", "trainer.guard", *flags)
                self._guards.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY))

    def train_to_the_middle(self) -> None:
        """Waits until some steps are done and saved, but fewer than half."""
        self.wait_until((self.job_dir / "backup" / "ckpt-12.index").exists, 120)
        assert self.codes() == [None, None]

    def wait_until(self, happened: Callable[[], object], seconds: float) -> None:
        """Waits until a condition holds."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s: {self.logs()}"
            time.sleep(0.002)

    def expect_both_to_leave(self, cut: str, has_left: Callable[[int], object]) -> None:
        """Asserts that both workers exit within a minute of a cut just now, and prints when each one did."""
        start = time.monotonic()
        left: dict[str, str] = {}

        def both_left() -> bool:
            for index, host in enumerate(HOSTS):
                if host not in left and has_left(index):
                    left[host] = f"{host} after {time.monotonic() - start:.1f} s"
            return len(left) == len(HOSTS)

        self.wait_until(both_left, MINUTE)
        print(f"{cut}: {', '.join(left.values())}")

    def end(self) -> None:
        """Waits until both guards have exited with 0."""
        self.wait_until(lambda: None not in self.codes(), 180)
        assert self.codes() == [0, 0], self.logs()

    def codes(self) -> list[int | None]:
        """Returns the exit code of each guard, None if it still runs."""
        return [guard.poll() for guard in self._guards]

    def log(self, index: int) -> str:
        """Returns the log of a guard and its workers."""
        return self._log(HOSTS[index]).read_text()

    def logs(self) -> str:
        """Returns the end of all logs."""
        return "".join(f"\n--- {HOSTS[index]}, {code}:\n{self.log(index)[-3000:]}" for index, code in enumerate(self.codes()))

    def resumed_at(self) -> int:
        """Returns the step at which the chief resumed for the last time."""
        return int(re.findall(rf"restored step (\d+) of {STEPS}", self.log(0))[-1])

    def kill(self) -> None:
        """Kills the guards that still run; their workers end with them."""
        for guard in self._guards:
            guard.kill()
            guard.wait()

    def _log(self, host: str) -> Path:
        return self.folder / f"{host}.log"


@contextlib.contextmanager
def _job(data_dir: Path, folder: Path) -> Iterator[Job]:
    try:
        with namespaces.network(*HOSTS) as network:
            job = Job(network, data_dir, folder)
            try:
                yield job
            finally:
                job.kill()
    except namespaces.Unavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a job that was not disturbed."""
    with _job(data_dir, tmp_path_factory.mktemp("undisturbed")) as job:
        job.start()
        job.end()
        return job.job_dir


@pytest.fixture
def job(undisturbed: Path, data_dir: Path, tmp_path: Path) -> Iterator[Job]:
    """A job that has not been started yet."""
    with _job(data_dir, tmp_path) as job:
        yield job


def test_after_silent_loss_both_workers_rejoin_and_resume_by_themselves(job, undisturbed):
    job.start()
    job.train_to_the_middle()
    job.network.lose(OTHER)
    job.expect_both_to_leave("silent loss", lambda index: REJOINS in job.log(index))
    # Each one waits for the other until the network is restored.
    job.wait_until(lambda: all(job.log(index).count(WAITS) == 2 for index in (0, 1)), 60)
    time.sleep(3)
    assert [job.log(index).count(MEETS) for index in (0, 1)] == [1, 1]
    job.network.find(OTHER)
    job.end()
    assert 0 < job.resumed_at() < STEPS
    assert_equal(undisturbed, job.job_dir)


def test_when_a_link_goes_down_both_workers_exit_75_and_resume_after_a_restart(job, undisturbed):
    job.start("--rejoin=0")
    job.train_to_the_middle()
    job.network.link_down(OTHER)
    job.expect_both_to_leave("link down", lambda index: job.codes()[index] is not None)
    assert job.codes() == [75, 75], job.logs()
    job.network.link_up(OTHER)
    job.start("--rejoin=0")
    job.end()
    assert 0 < job.resumed_at() < STEPS
    assert_equal(undisturbed, job.job_dir)


def test_silent_loss_while_tensorflow_connects_the_workers(job, undisturbed):
    job.start()
    job.wait_until(lambda: all(MEETS in job.log(index) for index in (0, 1)), 120)
    job.network.lose(OTHER)
    job.expect_both_to_leave("silent loss while connecting", lambda index: REJOINS in job.log(index))
    job.network.find(OTHER)
    job.end()
    assert_equal(undisturbed, job.job_dir)
