"""The commands of launch for jobs on this machine: one process runs a job, others show and cancel it."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.commands import ENVIRONMENT, end_all, refusal, run, start

LAUNCH = ("--target=local", "--skip_preflight", "--name=film", "--restarts=1")
FLAGS = ("--", "--data_dir=d", "--job_dir=j", "--grace_period=5")
SAVES = "trap 'echo saved; exit 143' TERM; echo begun; while :; do sleep 0.05; done"


class Desk:
    """A user's machine with its own state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = ENVIRONMENT | {"XDG_STATE_HOME": str(folder)}
        self.launchers: list[subprocess.Popen[str]] = []

    def launch(self, *workers: str):
        """Starts a job whose workers are shell commands; returns its launcher and its name."""
        known = set(self.names())
        environment = self.environment | {"DESK_WORKERS": "\n".join(workers)}
        launcher = start("tests.support.desk_launch", *LAUNCH, f"--workers={len(workers)}", *FLAGS, env=environment)
        self.launchers.append(launcher)
        until(lambda: set(self.names()) - known)
        (name,) = set(self.names()) - known
        return launcher, name

    def names(self) -> list[str]:
        """Returns the names of the recorded jobs."""
        return [path.parent.name for path in self.folder.glob("poster-trainer/*/state.json")]

    def do(self, *words: str) -> str:
        """Runs a command of launch; returns what it printed."""
        return run("launch", *words, "--target=local", env=self.environment).stdout

    def refuse(self, *words: str) -> str:
        """Runs a command of launch that must fail with exit code 2; returns its line."""
        return refusal("launch", *words, "--target=local", env=self.environment)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "state")
    yield desk
    end_all(desk.launchers)


def until(is_so, seconds=30):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_another_terminal_shows_follows_and_cancels_a_job(desk):
    launcher, name = desk.launch(SAVES, SAVES)
    until(lambda: desk.do("status", name).count("running") == 3)
    head, columns, *rows = desk.do("status", name).splitlines()
    assert head == f"{name}  running"
    assert columns.split() == ["WORKER", "PROCESS", "STATE", "EXIT", "CRASHES"]
    for index, row in enumerate(rows):
        number, pid, word, crashes = row.split()
        assert (number, word, crashes) == (str(index), "running", "0")
        os.kill(int(pid), 0)
    assert re.search(rf"^{name} +running +2 +\d+s$", desk.do("list"), re.MULTILINE)

    follower = start("launch", "logs", name, "--target=local", env=desk.environment)
    assert "ends as soon as its workers have saved" in run("launch", "cancel", name, "--target=local", env=desk.environment).stderr
    out, err = launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    followed, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    # Everything that the launcher printed, on both streams.
    assert sorted(followed.splitlines()) == sorted([*out.splitlines(), *err.splitlines()[:-1]])
    assert followed.count("saved") == 2

    assert desk.do("status", name).splitlines()[0] == f"{name}  stopped: as requested; the same command resumes from here"
    assert desk.do("logs", name) == followed
    assert f"job {name} is not running (stopped)" in desk.refuse("cancel", name)


def test_a_job_whose_launcher_was_killed_is_lost(desk):
    launcher, name = desk.launch(SAVES)
    until(lambda: "begun" in (desk.folder / "poster-trainer" / name / "log").read_text())
    follower = start("launch", "logs", name, "--target=local", env=desk.environment)
    launcher.kill()
    out, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    assert "begun" in out
    assert desk.do("status", name).splitlines()[0] == f"{name}  lost: its launcher was killed"
    assert "is not running (lost)" in desk.refuse("cancel", name)


def test_a_full_disk_costs_the_log_but_not_the_end_of_the_job(desk, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    desk.folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", desk.folder], check=True)
    try:
        launcher, name = desk.launch("head -c 500000 /dev/zero | tr '\\0' a | fold; exit 2")
        launcher.communicate(timeout=30)
        assert launcher.returncode == 2
        assert desk.do("status", name).startswith(f"{name}  failed: worker 0 needs a change")
    finally:
        subprocess.run(["umount", desk.folder], check=True)


def test_a_list_ends_silently_when_its_reader_leaves(desk):
    launcher, _ = desk.launch("exit 0")
    launcher.communicate(timeout=30)
    listing = start("launch", "list", "--target=local", env=desk.environment)
    assert listing.stdout
    listing.stdout.close()
    assert listing.wait(timeout=30) == 128 + 13
    assert listing.stderr
    assert listing.stderr.read() == ""
    listing.stderr.close()


def test_logs_ends_when_its_reader_leaves(desk):
    _, name = desk.launch("while :; do echo line; sleep 0.01; done")
    follower = start("launch", "logs", name, "--target=local", env=desk.environment)
    assert follower.stdout
    assert follower.stderr
    follower.stdout.readline()
    follower.stdout.close()
    assert follower.wait(timeout=30) == 0
    assert "Traceback" not in follower.stderr.read()
    follower.stderr.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("status", "film-0a1b2c3d"), "job 'film-0a1b2c3d' is not recorded on this machine"),
        (("logs", "../film"), "job '../film' is not recorded on this machine"),
        (("cancel",), "cancel takes the name of one job, got 0"),
        (("list", "film"), "'film' is not a flag"),
    ],
)
def test_a_wrong_name_ends_in_one_line(desk, words, says):
    assert says in desk.refuse(*words)
