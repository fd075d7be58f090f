"""The choice of a target, and what each of them offers."""

import inspect
from typing import Any

import pytest

from launch import target


@pytest.mark.parametrize("name", target.NAMES)
def test_each_target_has_the_commands_of_the_protocol(name):
    found: Any = target.get(name)
    assert found.__name__ == f"launch.{name}.commands"
    for command in ("print_spec", "run", "status", "logs", "cancel", "list_jobs"):
        offered = inspect.signature(getattr(found, command)).parameters.values()
        asked = [each for each in inspect.signature(getattr(target.Target, command)).parameters.values() if each.name != "self"]
        assert [(each.name, each.kind) for each in offered] == [(each.name, each.kind) for each in asked]


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="name must be one of local, kubernetes, vertex, got 'mars'"):
        target.get("mars")
