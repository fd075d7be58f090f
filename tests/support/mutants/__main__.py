"""Puts small faults into the code, one at a time, and asks whether a test notices: `make mutants COUNT=60 SEED=1`.

Prints a Markdown table with a row for each mutant: where it is, what the fault is, and the first test that failed. The first run
of a commit measures which tests execute which lines; afterwards each mutant takes only the tests that could notice it.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import queue
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.commands import REPOSITORY
from tests.support.mutants import coverage_map
from tests.support.mutants.faults import Fault, faults

_FOLDER = REPOSITORY / ".mutants"

_MOST_IN_A_MODULE = 2

# A mutant may wait for ever: no test takes this many seconds without a fault.
_LONGEST_TEST = 240


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with a fault.

    Attributes:
      module: the path of the module in the repository.
      fault: the fault in it.
    """

    module: str
    fault: Fault

    def row(self, verdict: str) -> str:
        """Returns the mutant's row of the table."""
        text = (REPOSITORY / self.module).read_text().splitlines()[self.fault.line - 1].strip().replace("|", "\\|")
        return f"| {self.module}:{self.fault.line} | `{text}` | {self.fault.what} | {verdict} |"


def sample(count: int, seed: int) -> list[Mutant]:
    """Draws mutants from the whole package, at most two from a module."""
    modules = [path.relative_to(REPOSITORY) for name in ("trainer", "launch") for path in (REPOSITORY / name).rglob("*.py")]
    everything = [Mutant(str(module), fault) for module in sorted(modules) for fault in faults((REPOSITORY / module).read_text())]
    random.Random(seed).shuffle(everything)
    drawn: Counter[str] = Counter()
    chosen: list[Mutant] = []
    for mutant in everything:
        if len(chosen) < count and drawn[mutant.module] < _MOST_IN_A_MODULE and _compiles(mutant):
            drawn[mutant.module] += 1
            chosen.append(mutant)
    return chosen


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.fault.applied((REPOSITORY / mutant.module).read_text()), mutant.module, "exec", dont_inherit=True)
    except SyntaxError:  # Such as a dropped parenthesis that a line break needs.
        return False
    return True


def judge(mutant: Mutant, copy: Path, measured: coverage_map.CoverageMap) -> str:
    """Runs the tests that a mutant concerns, in a copy of the repository.

    Returns:
      The first test that failed, or why none did.
    """
    tests = measured.tests(mutant.module, mutant.fault.line)
    if not tests:
        return "**survived**: no test executes it"
    module = copy / mutant.module
    source = module.read_text()
    module.write_text(mutant.fault.applied(source))
    try:
        failed = _first_failure(tests, copy)
    finally:
        module.write_text(source)
    if failed is None:
        return f"**survived** {len(tests)} test{'s' if len(tests) > 1 else ''}"
    if failed in tests and _first_failure([failed], copy):
        return f"**unclear**: {failed} fails without the fault too"
    return f"killed: {failed}"


def _first_failure(tests: Sequence[str], copy: Path) -> str | None:
    """Returns the id of the first test that fails, the last line of pytest where it has no id, or None if all pass."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as ids:
        ids.write("\n".join(tests))
        ids.flush()
        command = (sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"--timeout={_LONGEST_TEST}")
        # Without compiled files, two sources of the same length and second are not mistaken for each other.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run((*command, f"@{ids.name}"), cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    said = done.stdout + done.stderr
    if "ERROR: not found" in said:
        raise RuntimeError(f"pytest does not know a test: {said[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
    return failed[1] if failed else said.strip().splitlines()[-1]


def _copy(folder: Path) -> Path:
    files = subprocess.run(("git", "ls-files", "-co", "--exclude-standard", "-z"), cwd=REPOSITORY, capture_output=True, check=True)
    folder.mkdir()
    subprocess.run(("tar", "-x", "-C", folder), input=_packed(files.stdout), check=True)
    return folder


def _packed(names: bytes) -> bytes:
    command = ("tar", "-c", "--null", "--files-from=-")
    return subprocess.run(command, cwd=REPOSITORY, input=names, capture_output=True, check=True).stdout


def main() -> int:
    """Draws mutants and prints what became of them; returns 0 whatever it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutants", description=__doc__)
    parser.add_argument("count", type=int, help="the number of mutants")
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    options = parser.parse_args()
    mutants = sample(options.count, options.seed)
    if options.list:
        print("\n".join(mutant.row("") for mutant in mutants))
        return 0
    commit = subprocess.run(("git", "rev-parse", "HEAD"), cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    mark = _FOLDER / "commit.txt"
    if not mark.exists() or mark.read_text() != commit:
        print("Measuring which tests execute which lines.", flush=True)
        coverage_map.measure(_FOLDER)
        mark.write_text(commit)
    measured = coverage_map.load(_FOLDER)
    killed = 0
    begin = time.monotonic()
    jobs = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            free.put(_copy(Path(temporary) / str(number)))

        def run(mutant: Mutant) -> str:
            copy = free.get()
            try:
                return judge(mutant, copy, measured)
            finally:
                free.put(copy)

        print("| where | code | fault | verdict |\n|---|---|---|---|", flush=True)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for mutant, verdict in zip(mutants, pool.map(run, mutants), strict=True):
                killed += verdict.startswith("killed")
                print(mutant.row(verdict), flush=True)
    print(f"\n{killed} of {len(mutants)} mutants killed, seed {options.seed}, in {(time.monotonic() - begin) / 60:.0f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
