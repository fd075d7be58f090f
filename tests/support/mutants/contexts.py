"""A pytest plugin that tells coverage.py which test runs, in the test process and in the commands that the test starts.

A shared fixture (of a module or a session) is a context of its own, because several tests depend on what it made. The plugin writes
to the folder that MUTANTS_FOLDER names:

  durations.json: seconds of each test, by its id.
  fixtures-PID.json: names of the fixtures of each test, by its id.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

from tests.support import commands

# coverage.py's configuration reads it: it is the context of a process that starts.
VARIABLE = "MUTANTS_CONTEXT"

# The folder to write to.
FOLDER = "MUTANTS_FOLDER"

_durations: defaultdict[str, float] = defaultdict(float)


def _enter(context: str) -> None:
    os.environ[VARIABLE] = commands.ENVIRONMENT[VARIABLE] = context
    measured = coverage.Coverage.current()
    assert measured is not None, "COVERAGE_PROCESS_START is missing"
    measured.switch_context(context)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _enter(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> Iterator[None]:
    if fixturedef.scope == "function":
        return (yield)
    before = os.environ[VARIABLE]
    _enter(f"fixture {fixturedef.argname}")
    try:
        return (yield)
    finally:
        _enter(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = {item.nodeid: getattr(item, "fixturenames", []) for item in items}
    _write(f"fixtures-{os.getpid()}.json", names)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _durations[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        _write("durations.json", _durations)


def _write(name: str, content: object) -> None:
    (Path(os.environ[FOLDER]) / name).write_text(json.dumps(content))
