"""Turns a job into a CustomJob of Vertex AI, in the JSON form of its API."""

import math
import re
from collections.abc import Iterator
from typing import Any

from launch import buckets
from launch.job import SECRET, Job, is_given
from launch.vertex import machines
from trainer.errors import UserError

# The label by which the launcher finds its jobs.
LABEL, APP = "launcher", "poster-trainer"

_TIME_LIMIT = 7 * 86400  # Seconds; the default of Vertex AI too.

# The default of --rejoin: while the guard retries, an outage or a restarted peer uses up none of Vertex AI's restarts.
_REJOIN = 30

_ACCOUNT = re.compile(r"[a-z0-9][-a-z0-9]*@[a-z0-9][-a-z0-9.:]*\.gserviceaccount\.com")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")

# The API's limits, which include the launcher's own label and variable.
_MAX_LABELS, _MAX_VARIABLES = 64, 100

# The variables that Vertex AI sets in each worker.
_VERTEX_VARIABLES = re.compile("CLUSTER_SPEC|CLOUD_ML_.*|AIP_.*")


def notes(job: Job) -> Iterator[str]:
    """Yields warnings about a job that can run."""
    for key in job.env:
        if SECRET.search(key):
            yield f"--env={key}=… can be read by everyone who may read the job: give its service account the permission instead"
    if job.restarts not in (0, Job.restarts):  # 0 can be expressed, and the default is not the user's wish.
        yield (
            f"--restarts={job.restarts} is ignored: Vertex AI restarts a worker up to 5 times and then the job up to 3 times, or "
            "nothing with --restarts=0"
        )


def specify(job: Job, *, name: str) -> dict[str, Any]:
    """Returns the CustomJob of a job.

    Args:
      job: the job.
      name: the name of this launch, the same for all workers and their restarts.

    Raises:
      UserError: Vertex AI cannot run the job.
    """
    job.check_image()
    buckets.to_uri("data_dir", job.training.data_dir)
    output = buckets.to_uri("job_dir", job.training.job_dir)
    machine, container = machines.choose(job.device, cpu=job.cpu, memory=job.memory), _container(job, name)
    # The first pool holds the chief alone, as the API requires; the second pool holds the other workers.
    counts = [1, job.workers - 1] if job.workers > 1 else [1]
    described: dict[str, Any] = {
        "workerPoolSpecs": [{"machineSpec": machine.spec, "replicaCount": count, "containerSpec": container} for count in counts],
        "scheduling": _scheduling(job),
        "baseOutputDirectory": {"outputUriPrefix": output},
    }
    if job.service_account is not None:
        if not _ACCOUNT.fullmatch(job.service_account):
            raise UserError(
                f"--service_account={job.service_account} is not a Google Cloud service account: use its e-mail address, such as "
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
        scheduling["disableRetries"] = True  # It overrides restartJobOnWorkerRestart.
    elif job.workers > 1:
        scheduling["restartJobOnWorkerRestart"] = True
    return scheduling


def _container(job: Job, name: str) -> dict[str, Any]:
    variables = {"POSTER_JOB_ID": name} | {key: escape(value) for key, value in job.env.items()}
    for key in job.env:
        if _VERTEX_VARIABLES.fullmatch(key):
            raise UserError(f"--env={key}=… is set by Vertex AI: leave it out")
    if len(variables) > _MAX_VARIABLES:
        raise UserError(f"--env must set at most {_MAX_VARIABLES - 1} variables on Vertex AI, got {len(job.env)}")
    rejoin = [] if is_given("rejoin", job.arguments) else [f"--rejoin={_REJOIN}"]
    return {
        "imageUri": job.image,
        "command": ["python", "-m", "trainer.guard"],
        "args": [*rejoin, *map(escape, job.arguments)],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }


def _labels(job: Job) -> dict[str, str]:
    for key, value in job.labels.items():
        if key == LABEL:
            raise UserError(f"--label={key}=… is set by the launcher: leave it out")
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise UserError(
                f"--label={key}={value} is not a valid label on Vertex AI: use up to 63 lower-case letters, digits, '-' and '_' "
                "for key and value, and begin the key with a letter"
            )
    if len(job.labels) >= _MAX_LABELS:
        raise UserError(f"--label must set at most {_MAX_LABELS - 1} labels on Vertex AI, got {len(job.labels)}")
    return {LABEL: APP, **job.labels}


def _check_tensorboard(job: Job) -> None:
    if job.service_account is None:
        raise UserError(
            f"--tensorboard={job.tensorboard} needs a --service_account: name one that has the role roles/aiplatform.user"
        )
    region = str(job.tensorboard).split("/")[3]
    if job.region is not None and job.region != region:
        raise UserError(
            f"--tensorboard={job.tensorboard} is in {region}, but the job is in --region={job.region}: use the same region"
        )


def escape(text: str) -> str:
    """Escapes a text for args and env, where Vertex AI expands $(NAME) to a variable unless its $ is doubled.

    Vertex AI keeps a $ before any other character, so that it must not be doubled there.
    """
    return re.sub(r"\$(?=[$(])", "$$", text)
