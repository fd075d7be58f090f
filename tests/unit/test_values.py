"""A dataclass is a value that nobody changes, in the whole of trainer/ and launch/."""

import ast

from tests.support.commands import REPOSITORY

# A process that the supervisor starts again and again.
CHANGING = {"launch/local/supervisor.py"}


def test_dataclasses_are_frozen():
    others = set()
    for path in (path for package in ("trainer", "launch") for path in (REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                text = ast.unparse(decorator)
                if text.removeprefix("dataclasses.").startswith("dataclass") and "frozen=True" not in text:
                    others.add(str(path.relative_to(REPOSITORY)))
    assert others == CHANGING
