"""The installed wheel, in a folder without other files, has everything that it needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.commands import ENVIRONMENT, REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("trainer", "launch", "k8s"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        folder,
        ".",
    ]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def files(folder: Path, *suffixes: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in suffixes}


def test_a_wheel_has_every_file(installed):
    for name in ("trainer", "launch"):
        assert files(REPOSITORY / name, ".py", ".j2") == files(installed / name, ".py", ".j2")
    assert files(REPOSITORY / "k8s", ".yaml") == files(installed / "launch" / "k8s", ".yaml")
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"trainer", "launch"}


def dry_run(installed, folder, *flags):
    command = [sys.executable, "-m", "launch", "--dry_run", *flags, "--", "--data_dir=gs://b/d", "--job_dir=/gcs/b/j"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_a_wheel_in_an_empty_folder_renders_for_all_targets(installed, tmp_path):
    text = "import launch; print(launch.__file__)"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    where = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    job, service = dry_run(installed, tmp_path, "--target=kubernetes", "--image=i", "--spot", "--jobset", "--accelerator=nvidia-l4")
    assert (job["kind"], service["kind"]) == ("JobSet", "Service")
    (local,) = dry_run(installed, tmp_path, "--target=local", "--workers=2")
    assert len(local["workers"]) == 2
    (vertex,) = dry_run(installed, tmp_path, "--target=vertex", "--image=i", "--accelerator=nvidia-l4")
    assert vertex["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]["machineType"] == "g2-standard-4"
