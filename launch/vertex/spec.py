"""A job as a CustomJob of Vertex AI, in the JSON of its API."""

import math
import re
from collections.abc import Iterator
from typing import Any

from launch import buckets
from launch.job import SECRET, Job, is_given
from launch.vertex import machines
from trainer.errors import UserError

# What the launcher finds its jobs by.
LABEL, APP = "launcher", "poster-trainer"

_TIME_LIMIT = 7 * 86400  # Seconds; what Vertex AI takes too where none is given.

# A service that is away, or a worker that comes back, costs none of Vertex AI's restarts while the guard itself tries again.
_REJOIN = 30

_ACCOUNT = re.compile(r"[a-z0-9][-a-z0-9]*@[a-z0-9][-a-z0-9.:]*\.gserviceaccount\.com")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")

# The API's limits, its own label and variable included.
_MOST_LABELS, _MOST_VARIABLES = 64, 100

# What Vertex AI says to a worker.
_ITS_VARIABLES = re.compile("CLUSTER_SPEC|CLOUD_ML_.*|AIP_.*")


def notes(job: Job) -> Iterator[str]:
    """What a user should know of a job, though it can be run."""
    for key in job.env:
        if SECRET.search(key):
            yield f"--env={key}=… is in the job for all to read that may read it: let its service account have the right instead"
    if job.restarts not in (0, Job.restarts):  # The one can be said, and the other is what no user asked for.
        yield (
            f"--restarts={job.restarts} cannot be said to Vertex AI: it restarts a worker up to 5 times and then the job up to 3 "
            "times, or nothing with --restarts=0"
        )


def specify(job: Job, *, name: str) -> dict[str, Any]:
    """The CustomJob that a job becomes.

    Args:
      job: the job.
      name: of this launch of it, the same for all its workers and their restarts.

    Raises:
      UserError: Vertex AI cannot run the job.
    """
    job.check_image()
    buckets.address("data_dir", job.training.data_dir)
    output = buckets.address("job_dir", job.training.job_dir)
    machine, container = machines.choose(job.device, cpu=job.cpu, memory=job.memory), _container(job, name)
    # The first pool is the chief, and has just one replica; the second is the workers.
    counts = [1, job.workers - 1] if job.workers > 1 else [1]
    described: dict[str, Any] = {
        "workerPoolSpecs": [{"machineSpec": machine.spec, "replicaCount": count, "containerSpec": container} for count in counts],
        "scheduling": _scheduling(job),
        "baseOutputDirectory": {"outputUriPrefix": output},
    }
    if job.service_account is not None:
        if not _ACCOUNT.fullmatch(job.service_account):
            raise UserError(
                f"--service_account={job.service_account} is no service account of Google Cloud: use its e-mail address, such as "
                "trainer@PROJECT.iam.gserviceaccount.com"
            )
        described["serviceAccount"] = job.service_account
    if job.network is not None:
        described["network"] = job.network
    if job.tensorboard is not None:
        _check_tensorboard(job)
        described["tensorboard"] = job.tensorboard
    return {"displayName": name, "labels": _labels(job), "jobSpec": described}


def _scheduling(job: Job) -> dict[str, Any]:
    scheduling: dict[str, Any] = {"timeout": f"{math.ceil(job.time_limit or _TIME_LIMIT)}s"}
    if job.spot:
        scheduling["strategy"] = "SPOT"
    if job.restarts == 0:
        scheduling["disableRetries"] = True  # Which overrules the other.
    elif job.workers > 1:
        scheduling["restartJobOnWorkerRestart"] = True
    return scheduling


def _container(job: Job, name: str) -> dict[str, Any]:
    variables = {"POSTER_JOB_ID": name} | {key: escape(value) for key, value in job.env.items()}
    for key in job.env:
        if _ITS_VARIABLES.fullmatch(key):
            raise UserError(f"--env={key}=… is not yours to set: Vertex AI does; leave it out")
    if len(variables) > _MOST_VARIABLES:
        raise UserError(f"--env sets {len(job.env)} variables, and Vertex AI takes {_MOST_VARIABLES - 1}: leave some out")
    patience = [] if is_given("rejoin", job.arguments) else [f"--rejoin={_REJOIN}"]
    return {
        "imageUri": job.image,
        "command": ["python", "-m", "trainer.guard"],
        "args": [*patience, *map(escape, job.arguments)],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }


def _labels(job: Job) -> dict[str, str]:
    for key, value in job.labels.items():
        if key == LABEL:
            raise UserError(f"--label={key}=… is not yours to set: the launcher does; leave it out")
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise UserError(
                f"--label={key}={value} is no label of Vertex AI: key and value are up to 63 lower-case letters, digits, '-' "
                "and '_', and the key begins with a letter"
            )
    if len(job.labels) >= _MOST_LABELS:
        raise UserError(f"--label sets {len(job.labels)} labels, and Vertex AI takes {_MOST_LABELS - 1}: leave some out")
    return {LABEL: APP, **job.labels}


def _check_tensorboard(job: Job) -> None:
    if job.service_account is None:
        raise UserError(
            f"--tensorboard={job.tensorboard} needs --service_account: name one that has the role roles/aiplatform.user"
        )
    region = str(job.tensorboard).split("/")[3]
    if job.region is not None and job.region != region:
        raise UserError(f"--tensorboard={job.tensorboard} is in {region}, the job in --region={job.region}: use the same region")


def escape(text: str) -> str:
    """A text as it must be written in args and env to arrive unchanged: $(NAME) is a variable unless $ is doubled.

    Where it means nothing, a $ is not doubled.
    """
    return re.sub(r"\$(?=[$(])", "$$", text)
