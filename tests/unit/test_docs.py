"""The README's launches, each as it stands there, in a dry run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ENVIRONMENT, REPOSITORY

# What the README's own commands set before.
VARIABLES = {
    "PROJECT": "films",
    "REGION": "europe-west4",
    "BUCKET": "films-posters",
    "IMAGE": "europe-west4-docker.pkg.dev/films/images/poster-trainer:1",
    "ACCOUNT": "trainer@films.iam.gserviceaccount.com",
}


def launches() -> list[str]:
    """The commands that launch something, a line each."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("python -m launch --target")]


def dry_run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of the README with --dry_run, by the shell."""
    command = command.replace("python -m launch", f"{sys.executable} -m launch --dry_run", 1)
    environment = ENVIRONMENT | VARIABLES | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_target_is_launched():
    assert set(re.findall("--target=([a-z]+)", " ".join(launches()))) == {"local", "kubernetes", "vertex"}


@pytest.mark.parametrize("command", launches())
def test_a_launch_passes_a_dry_run(command, tmp_path):
    done = dry_run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_job_file_passes_a_dry_run(tmp_path):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(# (python.*?)\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "job.yaml").write_text(block[0])
    done = dry_run(block[1], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "films/jobs/third" in done.stdout
