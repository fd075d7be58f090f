"""Which tests execute which lines, measured by one run of the whole suite under coverage.py, with its subprocesses."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import coverage

from tests.support.commands import REPOSITORY
from tests.support.mutants import contexts

_CONFIGURATION = """\
[run]
branch = true
parallel = true
source_pkgs = trainer,launch
data_file = {folder}/data
# A command that a test starts has the test as its context.
context = ${{{variable}-}}
patch = _exit,execv
sigterm = true
"""


@dataclasses.dataclass(frozen=True)
class CoverageMap:
    """Which tests execute which lines.

    Attributes:
      contexts: what executed each line of each module: ids of tests, and `fixture NAME`, by line, by the module's path.
      durations: the seconds of each test, by its id.
      users: the ids of the tests that use a fixture, by its name.
    """

    contexts: Mapping[str, Mapping[int, list[str]]]
    durations: Mapping[str, float]
    users: Mapping[str, set[str]]

    def tests(self, module: str, line: int) -> list[str]:
        """Returns the ids of the tests that depend on a line, the fastest first.

        A line that runs when its module is imported, such as a constant, concerns all tests of the module.
        """
        lines = self.contexts.get(module, {})
        found = {context for context in lines.get(line, []) if context}
        if not found:
            found = {context for several in lines.values() for context in several if context}
        ids = {context for context in found if not context.startswith("fixture ")}
        for context in found - ids:
            ids |= self.users.get(context.removeprefix("fixture "), set())
        return sorted(ids & self.durations.keys(), key=lambda test: (self.durations[test], test))


def measure(folder: Path) -> None:
    """Runs the suite, which takes about half as long again as without coverage.py, and leaves what it measured in a folder.

    Raises:
      CalledProcessError: a test failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    configuration = folder / "coverage.ini"
    configuration.write_text(_CONFIGURATION.format(folder=folder, variable=contexts.VARIABLE))
    environment = {
        **os.environ,
        "COVERAGE_PROCESS_START": str(configuration),
        contexts.FOLDER: str(folder),
        contexts.VARIABLE: "",
    }
    command = (sys.executable, "-m", "pytest", "-p", contexts.__name__, "--dist=loadfile", "--quiet")
    subprocess.run(
        (*command, f"--numprocesses={(os.cpu_count() or 1) + 1}", "--no-loadscope-reorder"),
        cwd=REPOSITORY,
        env=environment,
        check=True,
    )
    combined = coverage.Coverage(config_file=str(configuration))
    combined.combine([str(folder)])
    combined.save()


def load(folder: Path) -> CoverageMap:
    """Returns what `measure` left in a folder."""
    data = coverage.CoverageData(str(folder / "data"))
    data.read()
    # A test installs the wheel into a folder of its own.
    files = {Path(file) for file in data.measured_files() if Path(file).is_relative_to(REPOSITORY)}
    lines = {str(file.relative_to(REPOSITORY)): data.contexts_by_lineno(str(file)) for file in files}
    users: defaultdict[str, set[str]] = defaultdict(set)
    for path in folder.glob("fixtures-*.json"):
        for test, names in json.loads(path.read_text()).items():
            for name in names:
                users[name].add(test)
    return CoverageMap(lines, json.loads((folder / "durations.json").read_text()), users)
