"""Runs `python -m launch` with the workers of tests.support.chaos_worker. With the argument `guard`, it is the guard."""

import dataclasses
import runpy
import sys

from absl import flags

from launch.local import processes, supervisor
from launch.local import spec as local
from trainer import config, guard
from trainer.process import entry


def _watched(spec: processes.Spec) -> processes.Spec:
    workers = [
        dataclasses.replace(worker, command=(sys.executable, "-m", "tests.support.chaos_launch", "guard", *worker.command[3:]))
        for worker in spec.workers
    ]
    return dataclasses.replace(spec, workers=tuple(workers))


def _guard(_: list[str]) -> int:
    return guard.run([sys.executable, "-m", "tests.support.chaos_worker", *sys.argv[1:]], config.from_flags())


if __name__ == "__main__":
    if sys.argv[1:2] == ["guard"]:
        del sys.argv[1]
        config.define_flags()
        flags.adopt_module_key_flags(config)
        entry.run(_guard)
    # Long back-offs are for workers that fail by themselves, not for killed ones.
    supervisor._LONGEST_DELAY = 1.0
    specify = local.specify
    local.specify = lambda *arguments, **options: _watched(specify(*arguments, **options))
    runpy.run_module("launch", run_name="__main__", alter_sys=True)
