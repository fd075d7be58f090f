"""Reads the Dockerfile and the locks for tests."""

import re

from tests.support.commands import REPOSITORY

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """Returns the Dockerfile's instructions, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    lines = (line.partition(" ") for line in text.splitlines() if line)
    return [(word, rest.strip()) for word, _, rest in lines]


def arguments(name: str, among: list[Instruction] | None = None) -> list[str]:
    """Returns the arguments of all instructions with this name, in the whole file or in `among`."""
    return [rest for word, rest in among or instructions() if word == name]


def final_stage() -> list[Instruction]:
    """Returns the instructions after the last FROM."""
    every = instructions()
    last = max(number for number, (word, _) in enumerate(every) if word == "FROM")
    return every[last:]


def versions(lock: str) -> dict[str, set[str]]:
    """Returns the versions that a lock has for each distribution: one, or one for each Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)(?:\[[a-z-]+\])?==(\S+)", (REPOSITORY / lock).read_text(), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def normalised(requirement: str) -> str:
    """Returns the name of a requirement as locks write it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[._-]+", "-", name.group()).lower()
