"""python -m launch: runs trainer.task with several workers that are restarted as their exit codes ask.

    python -m launch --target=local --workers=2 -- --data_dir=dataset/ --job_dir=job/

The flags of trainer.task come after --. Ctrl-C stops all workers, which save their state first; the same command goes on.
"""

import functools
import sys
from collections.abc import Sequence

from absl import flags

from launch import local
from launch.job import Job, parse_env
from trainer import app
from trainer.errors import UserError

_TARGETS = ("local",)

_TARGET = flags.DEFINE_enum("target", None, _TARGETS, "Where the job runs: local is this machine.")
_NAME = flags.DEFINE_string("name", "poster", "What the job is called; each launch adds a suffix of its own.")
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Processes that train together. Several have one GPU each where there are several; one alone has them all."
)
_RESTARTS = flags.DEFINE_integer(
    "restarts",
    3,
    "How often each worker may crash and be started again. An end by 75 (lost a peer or a service) or 143 (stopped from outside) "
    "is not counted: what keeps a job from trying for ever is --time_limit.",
)
_ENV = flags.DEFINE_multi_string("env", [], "K=V: an environment variable of every worker; may be repeated.")
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    None,
    "Seconds after which the job saves its state, stops and exits 2; the same command goes on. By default never.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be started as one JSON object, secrets masked, and start nothing.")


def main(words: list[str], arguments: Sequence[str]) -> None:
    """Does what the verb says.

    Args:
      words: the verb and what follows it, flags apart.
      arguments: what follows `--`.

    Raises:
      Ended: the job could not be described, or did not end well.
    """
    verb, *rest = words or ["run"]
    if verb not in _VERBS:
        raise UserError(f"{verb!r} is no verb of launch: there is {', '.join(_VERBS)}")
    if rest:
        raise UserError(f"{rest[0]!r} is no flag: options are written --name=value, those of trainer.task after --")
    _VERBS[verb](arguments)


def _run(arguments: Sequence[str]) -> None:
    if _TARGET.value is None:
        raise UserError(f"--target is missing: there is {', '.join(_TARGETS)}")
    job = Job(
        arguments=tuple(arguments),
        name=_NAME.value,
        workers=_WORKERS.value,
        restarts=_RESTARTS.value,
        env=parse_env(_ENV.value),
        time_limit=_TIME_LIMIT.value,
    )
    local.run(job, dry_run=_DRY_RUN.value)


_VERBS = {"run": _run}


def _split(command_line: list[str]) -> tuple[list[str], list[str]]:
    """What is before the first `--`, and what is after it."""
    if "--" not in command_line:
        return command_line, []
    at = command_line.index("--")
    return command_line[:at], command_line[at + 1 :]


if __name__ == "__main__":
    sys.argv, _arguments = _split(sys.argv)
    app.run(functools.partial(main, arguments=_arguments))
