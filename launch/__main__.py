"""python -m launch: runs trainer.task with several workers that are restarted as their exit codes ask.

    python -m launch --target=local --workers=2 -- --data_dir=dataset/ --job_dir=job/
    python -m launch --target=kubernetes --image=IMAGE --workers=2 -- --data_dir=gs://… --job_dir=gs://…
    python -m launch --target=vertex --region=REGION --image=IMAGE --workers=2 -- --data_dir=gs://… --job_dir=gs://…
    python -m launch status|logs|cancel NAME --target=…
    python -m launch list --target=…

The flags of trainer.task come after --. A job of this machine runs where it is started; the other verbs look after it from another
terminal. Ctrl-C stops all its workers, which save their state first; the same command goes on.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import preflight, target
from launch.job import Job, Place, expand, parse_settings
from trainer.errors import UserError
from trainer.process import entry

_VERBS = ("run", "status", "logs", "cancel", "list")

_TARGET = flags.DEFINE_enum("target", None, target.NAMES, "Where the job runs: local is this machine.")
_JOB_FILE = flags.DEFINE_string(
    "job_file", None, "YAML with what the job's flags say, and arguments: those of trainer.task. Flags overrule it."
)
_NAME = flags.DEFINE_string("name", None, "What the job is called (poster); each launch adds a suffix of its own.")
_IMAGE = flags.DEFINE_string("image", None, "The container image that the workers run.")
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Processes that train together (1). On this machine several have one GPU each where there are several; one alone has them all.",
)
_ACCELERATOR = flags.DEFINE_string(
    "accelerator", None, "TYPE or TYPE:COUNT, of each worker, under GKE's names, such as nvidia-l4:2; by default none."
)
_CPU = flags.DEFINE_string("cpu", None, "Cores of each worker, such as 4 or 500m.")
_MEMORY = flags.DEFINE_string("memory", None, "Memory of each worker, such as 16Gi.")
_ENV = flags.DEFINE_multi_string("env", [], "K=V: an environment variable of every worker; may be repeated.")
_LABEL = flags.DEFINE_multi_string(
    "label", [], "K=V: a label of the job and its workers; may be repeated. kueue.x-k8s.io/queue-name=Q puts it into a queue."
)
_SPOT = flags.DEFINE_bool("spot", None, "Use Spot VMs, which cost less and may be taken away.")
_RESTARTS = flags.DEFINE_integer(
    "restarts",
    None,
    "How often each worker may crash and be started again (3). An end by 75 (lost a peer or a service) or 143 (stopped from "
    "outside) is not counted: what keeps a job from trying for ever is --time_limit. A JobSet counts every restart of the set.",
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    None,
    "Seconds after which the job saves its state, stops and exits 2; the same command goes on. By default never, on Kubernetes "
    "and Vertex AI after seven days.",
)
_SERVICE_ACCOUNT = flags.DEFINE_string("service_account", None, "Whom the workers act as.")
_NAMESPACE = flags.DEFINE_string("namespace", None, "Of Kubernetes; by default that of the current context.")
_PROJECT = flags.DEFINE_string("project", None, "Of Google Cloud.")
_REGION = flags.DEFINE_string("region", None, "Of Google Cloud.")
_TENSORBOARD = flags.DEFINE_string(
    "tensorboard", None, "On Vertex AI, the TensorBoard instance that shows the job: projects/…/locations/…/tensorboards/…."
)
_NETWORK = flags.DEFINE_string("network", None, "On Vertex AI, the VPC to peer with: projects/NUMBER/global/networks/NAME.")
_JOBSET = flags.DEFINE_bool(
    "jobset", None, "On Kubernetes, make a JobSet, which restarts all workers where one fails; its controller must be installed."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would be started, one JSON object, YAML for Kubernetes, and start nothing."
)
_SKIP_PREFLIGHT = flags.DEFINE_bool(
    "skip_preflight", False, "Start the job without a look at its data set and directory, as where this machine may not see them."
)
_WAIT = flags.DEFINE_bool(
    "wait", False, "Follow the job's log to its end, and exit with the job's own code. On this machine it is always so."
)

# The flags that describe a job, by their fields.
_FIELDS: dict[str, flags.FlagHolder[Any]] = {
    "name": _NAME,
    "image": _IMAGE,
    "workers": _WORKERS,
    "accelerator": _ACCELERATOR,
    "cpu": _CPU,
    "memory": _MEMORY,
    "spot": _SPOT,
    "restarts": _RESTARTS,
    "time_limit": _TIME_LIMIT,
    "service_account": _SERVICE_ACCOUNT,
    "namespace": _NAMESPACE,
    "project": _PROJECT,
    "region": _REGION,
    "tensorboard": _TENSORBOARD,
    "network": _NETWORK,
    "jobset": _JOBSET,
}


def main(words: list[str], arguments: Sequence[str]) -> None:
    """Does what the verb says.

    Args:
      words: the verb and what follows it, flags apart.
      arguments: what follows `--`.

    Raises:
      Ended: the job could not be described, or did not end well.
    """
    verb, *names = words or ["run"]
    if verb not in _VERBS:
        raise UserError(f"{verb!r} is no verb of launch: there is {', '.join(_VERBS)}")
    if verb in ("run", "list") and names:
        raise UserError(f"{names[0]!r} is no flag: options are written --name=value, those of trainer.task after --")
    if _TARGET.value is None:
        raise UserError(f"--target is missing: there is {', '.join(target.NAMES)}")
    if verb == "run":
        job = describe(arguments)
        preflight.check_description(job, is_remote=_TARGET.value != "local")
        if _DRY_RUN.value:
            target.get(_TARGET.value).print_spec(job)
        else:
            target.get(_TARGET.value).run(job, wait=_WAIT.value, look=not _SKIP_PREFLIGHT.value)
        return
    if arguments:
        raise UserError(f"{arguments[0]!r}: {verb} takes no flags of trainer.task")
    if verb != "list" and len(names) != 1:
        raise UserError(f"{verb} takes the name of one job, not {len(names)}: python -m launch list --target={_TARGET.value}")
    if _DRY_RUN.value:
        raise UserError(f"--dry_run is for run, and not for {verb}: leave it out")
    place = Place(**{name: value for name, value in _described().items() if name in ("namespace", "project", "region")})
    commands = target.get(_TARGET.value)
    match verb:
        case "list":
            commands.list_jobs(place)
        case "status":
            commands.status(names[0], place)
        case "logs":
            commands.logs(names[0], place)
        case "cancel":
            commands.cancel(names[0], place)


def describe(arguments: Sequence[str]) -> Job:
    """The job that the file and the flags describe.

    Args:
      arguments: the flags of trainer.task, which come after those of the file, so that they overrule them.

    Raises:
      UserError: it is no job.
    """
    fields = _described()
    fields["env"] = fields.get("env", {}) | parse_settings("env", _ENV.value)
    fields["labels"] = fields.get("labels", {}) | parse_settings("label", _LABEL.value)
    fields["arguments"] = expand((*fields.get("arguments", ()), *arguments))
    return Job(**fields)


def _described() -> dict[str, Any]:
    """The fields that the file and, over it, the flags set."""
    fields: dict[str, Any] = {}
    if _JOB_FILE.value is not None:
        from launch import job_file

        fields = job_file.read(_JOB_FILE.value)
    return fields | {name: flag.value for name, flag in _FIELDS.items() if flag.value is not None}


def _split(command_line: list[str]) -> tuple[list[str], list[str]]:
    """What is before the first `--`, and what is after it."""
    if "--" not in command_line:
        return command_line, []
    at = command_line.index("--")
    return command_line[:at], command_line[at + 1 :]


if __name__ == "__main__":
    sys.argv, _arguments = _split(sys.argv)
    entry.run(functools.partial(main, arguments=_arguments))
