"""Runs a local job of `python -m launch` whose workers are shell commands: the lines of the variable DESK_WORKERS."""

import dataclasses
import os
import runpy

from launch.local import processes
from launch.local import spec as local


def _as_commands(spec: processes.Spec) -> processes.Spec:
    lines = os.environ["DESK_WORKERS"].splitlines()
    workers = [dataclasses.replace(worker, command=("sh", "-c", line)) for worker, line in zip(spec.workers, lines, strict=True)]
    return dataclasses.replace(spec, workers=tuple(workers))


if __name__ == "__main__":
    specify = local.specify
    local.specify = lambda *arguments, **options: _as_commands(specify(*arguments, **options))
    runpy.run_module("launch", run_name="__main__", alter_sys=True)
