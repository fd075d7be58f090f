"""A command's module with flags of its own: in one test process two commands would define the same flags."""

import functools
import importlib
import sys
from types import ModuleType

import pytest
from absl import flags

_KINDS = ("string", "integer", "float", "bool", "enum", "list", "multi_string")


def load(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[ModuleType, flags.FlagValues]:
    """Imports a command's module anew.

    Args:
      monkeypatch: pytest's fixture, which undoes the import at the end of the test.
      name: the name of the module, such as "trainer.prepare".

    Returns:
      The module, and its flags. Parse a command line with `values([name, "--flag=value"])`.
    """
    values = flags.FlagValues()
    package, _, last = name.rpartition(".")
    for place, key in ((sys.modules, name), (vars(sys.modules[package]), last)):
        # Set first, so that the fixture later removes the new module, or brings back the one that was there.
        monkeypatch.setitem(place, key, None)
        del place[key]
    with monkeypatch.context() as patched:
        for kind in _KINDS:
            define = f"DEFINE_{kind}"
            patched.setattr(flags, define, functools.partial(getattr(flags, define), flag_values=values))
        return importlib.import_module(name), values
