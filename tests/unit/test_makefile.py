"""`make setup` on machines with and without a Python that the package supports. The programs it calls are imitated."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")

# Does what the makefile needs of uv, venv and pip, and writes down how it was called.
PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
case "$*" in
  *version_info*) exec "$REAL" -c "import sys; sys.version_info = ($VERSION, 0); $2" ;;
  *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/pip ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Runs `make setup` on a machine that has the given programs; returns the process and what was called."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("sh", "mkdir", "cp", "touch", "env"):
        (bin_folder / name).symlink_to(shutil.which(name))
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)

    def setup(*programs, version="3, 13", arguments=()):
        for program in programs:
            (bin_folder / program).write_text(PROGRAM)
            (bin_folder / program).chmod(0o755)
        calls = tmp_path / "calls"
        calls.touch()
        environment = {
            "PATH": str(bin_folder),
            "CALLS": str(calls),
            "VERSION": version,
            "REAL": os.path.realpath(sys.executable),
        }
        command = [shutil.which("make"), "setup", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done, [line for line in calls.read_text().splitlines() if "version_info" not in line]

    return setup


@pytest.mark.parametrize("version", ["3, 11", "3, 12", "3, 13"])
def test_each_python_that_the_package_supports_makes_the_environment(machine, version):
    done, calls = machine("python3", version=version)
    assert done.returncode == 0, done.stderr
    assert calls[0] == "python3 -m venv .venv"
    assert calls[1] == "pip install --quiet --requirement requirements.lock"


@pytest.mark.parametrize("version", ["3, 10", "3, 14"])
def test_without_a_fitting_python_uv_brings_one(machine, version):
    done, calls = machine("python3", "uv", version=version)
    assert done.returncode == 0, done.stderr
    assert calls[0] == "uv venv --quiet --seed --allow-existing --python=3.13 .venv"
    assert calls[1].startswith("pip install")


def test_a_python_that_fits_is_preferred_to_uv(machine):
    _, calls = machine("python3.12", "uv", version="3, 12")
    assert calls[0] == "python3.12 -m venv .venv"


def test_with_neither_a_line_says_what_to_do(machine, tmp_path):
    done, calls = machine("python3", version="3, 10")
    assert done.returncode == 2
    assert calls == []
    assert done.stdout == (
        "Python 3.11, 3.12 or 3.13 was not found: install one, or install uv, which downloads one, "
        "or name one with make PYTHON=/path/to/python3 setup\n"
    )
    assert not (tmp_path / ".venv").exists()


def test_a_named_python_is_used_whatever_its_version(machine):
    _, calls = machine("python3", "mine", version="3, 10", arguments=("PYTHON=mine",))
    assert calls[0] == "mine -m venv .venv"
