"""python -m launch: runs trainer.task with one or more workers, and restarts each worker as its exit code asks.

    python -m launch --target=local --workers=2 -- --data_dir=dataset/ --job_dir=job/
    python -m launch --target=kubernetes --image=IMAGE --workers=2 -- --data_dir=gs://… --job_dir=gs://…
    python -m launch --target=vertex --region=REGION --image=IMAGE --workers=2 -- --data_dir=gs://… --job_dir=gs://…
    python -m launch status|logs|cancel NAME --target=…
    python -m launch list --target=…

The flags of trainer.task come after --. With --target=local the job runs as long as this command: Ctrl-C stops its workers, which
save their state first, and the same command resumes the job. The other commands show or stop a job from another terminal.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import preflight, target
from launch.job import Job, Location, expand, parse_settings
from trainer.errors import UserError
from trainer.process import entry

_COMMANDS = ("run", "status", "logs", "cancel", "list")

_TARGET = flags.DEFINE_enum("target", None, target.NAMES, "Where the job runs; local is this machine.")
_JOB_FILE = flags.DEFINE_string(
    "job_file",
    None,
    "A YAML file with these flags as keys, and the flags of trainer.task as the list `arguments`; flags override it.",
)
_NAME = flags.DEFINE_string("name", None, "The job's name (poster); each launch appends its own suffix.")
_IMAGE = flags.DEFINE_string("image", None, "The container image of the workers.")
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Processes that train together (1). With --target=local, several workers get one GPU each, and a single worker gets all.",
)
_ACCELERATOR = flags.DEFINE_string(
    "accelerator",
    None,
    "Accelerator of each worker, as TYPE or TYPE:COUNT with GKE's names, such as nvidia-l4:2.",
)
_CPU = flags.DEFINE_string("cpu", None, "CPU cores of each worker, such as 4 or 500m.")
_MEMORY = flags.DEFINE_string("memory", None, "Memory of each worker, such as 16Gi.")
_ENV = flags.DEFINE_multi_string("env", [], "K=V: an environment variable of every worker; repeatable.")
_LABEL = flags.DEFINE_multi_string(
    "label", [], "K=V: a label of the job and its workers; repeatable. kueue.x-k8s.io/queue-name=Q puts the job into a Kueue queue."
)
_SPOT = flags.DEFINE_bool("spot", None, "Use Spot VMs, which cost less and can be preempted.")
_RESTARTS = flags.DEFINE_integer(
    "restarts",
    None,
    "How often each worker may crash and be restarted (3). Exit codes 75 (lost a peer or a service) and 143 (asked to stop) do not "
    "count; --time_limit bounds those restarts. A JobSet counts every restart of the set.",
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    None,
    "Seconds after which the job saves its state, stops and exits 2; the same command resumes it. Default: none with "
    "--target=local, seven days on Kubernetes and Vertex AI.",
)
_SERVICE_ACCOUNT = flags.DEFINE_string("service_account", None, "The service account that the workers run as.")
_NAMESPACE = flags.DEFINE_string("namespace", None, "The Kubernetes namespace; by default the current context's.")
_PROJECT = flags.DEFINE_string("project", None, "The Google Cloud project; by default the credentials' own.")
_REGION = flags.DEFINE_string("region", None, "The Google Cloud region, such as europe-west4.")
_TENSORBOARD = flags.DEFINE_string(
    "tensorboard",
    None,
    "On Vertex AI, the TensorBoard that shows the job: projects/PROJECT/locations/REGION/tensorboards/NUMBER.",
)
_NETWORK = flags.DEFINE_string(
    "network", None, "On Vertex AI, the VPC to peer the workers with: projects/NUMBER/global/networks/NAME."
)
_JOBSET = flags.DEFINE_bool(
    "jobset", None, "On Kubernetes, create a JobSet, which restarts all workers when one fails; its controller must be installed."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the job's spec, as YAML for Kubernetes and else as one JSON object, and start nothing."
)
_SKIP_PREFLIGHT = flags.DEFINE_bool(
    "skip_preflight", False, "Skip the checks of the data set and the job directory, for example if this machine may not read them."
)
_WAIT = flags.DEFINE_bool(
    "wait", False, "Follow the job's log to its end, and exit with the job's exit code; always so with --target=local."
)

# The flags that set a field of `Job`, by the field's name.
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
    """Runs a command.

    Args:
      words: the command line before `--`, without flags: the command, by default run, and a job's name.
      arguments: the command line after `--`.

    Raises:
      Ended: the command line is wrong, or the command or the job failed.
      Stopped: the job was stopped or cancelled, or the user stopped following it.
    """
    command, *names = words or ["run"]
    if command not in _COMMANDS:
        raise UserError(f"{command!r} is not a command of launch: use one of {', '.join(_COMMANDS)}")
    if command in ("run", "list") and names:
        raise UserError(f"{names[0]!r} is not a flag: write flags as --name=value, and those of trainer.task after --")
    if _TARGET.value is None:
        raise UserError(f"--target is missing: use one of {', '.join(target.NAMES)}")
    if command == "run":
        job = describe(arguments)
        preflight.check_description(job, is_remote=_TARGET.value != "local")
        if _DRY_RUN.value:
            target.get(_TARGET.value).print_spec(job)
        else:
            target.get(_TARGET.value).run(job, wait=_WAIT.value, run_preflight=not _SKIP_PREFLIGHT.value)
        return
    if arguments:
        raise UserError(f"{arguments[0]!r} is a flag of trainer.task, which {command} does not take: leave it out")
    if command != "list" and len(names) != 1:
        raise UserError(
            f"{command} takes the name of one job, got {len(names)}: choose one of python -m launch list --target={_TARGET.value}"
        )
    if _DRY_RUN.value:
        raise UserError(f"--dry_run applies to run, not to {command}: leave it out")
    location = Location(**{name: value for name, value in _described().items() if name in ("namespace", "project", "region")})
    commands = target.get(_TARGET.value)
    match command:
        case "list":
            commands.list_jobs(location)
        case "status":
            commands.status(names[0], location)
        case "logs":
            commands.logs(names[0], location)
        case "cancel":
            commands.cancel(names[0], location)


def describe(arguments: Sequence[str]) -> Job:
    """Returns the job that --job_file and the flags describe.

    Args:
      arguments: flags of trainer.task; they override those of the file.

    Raises:
      UserError: the description is invalid.
    """
    fields = _described()
    fields["env"] = fields.get("env", {}) | parse_settings("env", _ENV.value)
    fields["labels"] = fields.get("labels", {}) | parse_settings("label", _LABEL.value)
    fields["arguments"] = expand((*fields.get("arguments", ()), *arguments))
    return Job(**fields)


def _described() -> dict[str, Any]:
    """Returns the fields of `Job` that the file and the flags set; a flag overrides the file."""
    fields: dict[str, Any] = {}
    if _JOB_FILE.value is not None:
        from launch import job_file

        fields = job_file.read(_JOB_FILE.value)
    return fields | {name: flag.value for name, flag in _FIELDS.items() if flag.value is not None}


def _split(command_line: list[str]) -> tuple[list[str], list[str]]:
    """Splits a command line at its first `--`."""
    if "--" not in command_line:
        return command_line, []
    at = command_line.index("--")
    return command_line[:at], command_line[at + 1 :]


if __name__ == "__main__":
    sys.argv, _arguments = _split(sys.argv)
    entry.run(functools.partial(main, arguments=_arguments))
