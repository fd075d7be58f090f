"""Loads a command into the test's own process, with flags of its own: several commands have a --job_dir."""

import functools
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from absl import flags

from trainer.process import log


def load(patch: pytest.MonkeyPatch, name: str, *arguments: object) -> ModuleType:
    """Returns a new copy of a command's module whose flags have been parsed.

    Args:
      patch: undoes it at the end of the test.
      name: the module, such as trainer.evaluate.
      *arguments: the flags.
    """
    own = flags.FlagValues()
    package, _, last = name.rpartition(".")
    with pytest.MonkeyPatch.context() as defining:
        for kind in ("string", "bool", "enum", "integer", "list"):
            define = getattr(flags, f"DEFINE_{kind}")
            defining.setattr(flags, f"DEFINE_{kind}", functools.partial(define, flag_values=own))
        patch.delitem(sys.modules, name, raising=False)
        before = getattr(importlib.import_module(package), last, None)
        module = importlib.import_module(name)
    # Whoever imports the command later gets it as it was.
    del sys.modules[name]
    if before is None:
        delattr(sys.modules[package], last)
    else:
        setattr(sys.modules[package], last, before)
    own(["command", *map(str, arguments)])
    return module


@contextmanager
def log_as_before(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes at the end of a block what `log.configure` does to the whole process."""
    logger = logging.getLogger("trainer")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    patch.setattr(log, "_formatter", None)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
