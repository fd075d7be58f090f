"""A job as objects of Kubernetes: an Indexed Job or a JobSet, and a headless Service; made of the files in k8s/."""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from launch import buckets
from launch.job import SECRET, Job, is_given
from launch.kubernetes import kustomize
from trainer.cluster.discovery import LONGEST_HOST_LABEL
from trainer.errors import UserError

APP = "poster-trainer"
NAME_LABEL, INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"
CONTAINER = "trainer"

# A queue holds the whole job back; on pods of their own the label would mean another thing.
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

_SLACK = 5  # A guard ends its worker after the grace period; it has this many seconds more to end itself.
_SPOT_NOTICE = 15  # Seconds that a pod on a Spot VM of GKE has.

_SERVICE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_RARE_BREAK = re.compile("[\x85\u2028\u2029]")
_LIKE_A_VALUE = re.compile("[-+.]?[0-9][-+.:_0-9eE]*|[-+]?0[xob][_0-9a-fA-F]+|[yYnN]")  # Of any version of YAML.


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """Objects as a YAML stream."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True, explicit_start=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # A value that is there twice is written twice.
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Other readers than PyYAML take 1e3 and y for no texts; and these line breaks are kept where double quotes escape them.
        style = '"' if _RARE_BREAK.search(data) else "'" if _LIKE_A_VALUE.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def notes(job: Job) -> Iterator[str]:
    """What a user should know of a job, though it can be run."""
    for key in job.env:
        if SECRET.search(key):
            yield f"--env={key}=… is in the spec for all to read that may read the job: use Workload Identity where you can"
    if job.spot and job.training.grace_period > _SPOT_NOTICE:
        yield f"--grace_period={job.training.grace_period:g} is longer than the {_SPOT_NOTICE} s that GKE gives a pod on a Spot VM"


def specify(job: Job, *, name: str) -> list[dict[str, Any]]:
    """The objects that a job becomes: first the Job or JobSet, then the Service.

    Args:
      job: the job.
      name: of this launch of it, the same for all its workers and their restarts.

    Raises:
      UserError: Kubernetes cannot run the job.
    """
    job.check_image()
    for flag in ("data_dir", "job_dir"):
        buckets.address(flag, getattr(job.training, flag))
    if job.service_account is not None and not _SERVICE_ACCOUNT.fullmatch(job.service_account):
        raise UserError(
            f"--service_account={job.service_account} is no service account of Kubernetes: name one of the namespace, to which "
            "Google Cloud's roles are granted"
        )
    _check_names(job, name)
    workload, service = kustomize.build(_components(job))
    batch = child(workload)
    batch |= {"completions": job.workers, "parallelism": job.workers}
    if job.time_limit is not None:
        batch["activeDeadlineSeconds"] = math.ceil(job.time_limit)
    if job.jobset:
        workload["spec"]["failurePolicy"]["maxRestarts"] = job.restarts
    else:
        batch["backoffLimitPerIndex"] = job.restarts
    own = {NAME_LABEL: APP, INSTANCE_LABEL: name}
    for one in (workload, service):
        place = {"namespace": job.namespace} if job.namespace else {}
        one["metadata"] = {"name": name, **place, "labels": {**own, **job.labels}}
    service["spec"]["selector"] = own
    _fill_pod(batch["template"], job, name)
    return [{key: one[key] for key in ("apiVersion", "kind", "metadata", "spec")} for one in (workload, service)]


def child(workload: dict[str, Any]) -> dict[str, Any]:
    """What a Job, or the one child of a JobSet, is to do."""
    spec = workload["spec"]
    return spec if workload["kind"] == "Job" else spec["replicatedJobs"][0]["template"]["spec"]


def _components(job: Job) -> list[str]:
    training = job.training
    folders = (training.data_dir, training.job_dir, training.cache, training.weights)
    wanted = {
        "gpu": job.device is not None and not job.device.is_tpu,
        "tpu": job.device is not None and job.device.is_tpu,
        "spot": job.spot,
        "gcsfuse": any(folder.startswith(buckets.MOUNT) for folder in folders),
        "jobset": job.jobset,  # The last: the others' paths are those of a Job.
    }
    return [component for component, is_wanted in wanted.items() if is_wanted]


def _check_names(job: Job, name: str) -> None:
    # Kubernetes cuts a pod's host name off at this length, and then no worker finds another. A JobSet is refused for the pods'
    # names, which have six characters more.
    prefix, suffix = ("-worker-0", "-abcde") if job.jobset else ("", "")
    longest = f"{name}{prefix}-{job.workers - 1}{suffix}"
    if len(longest) > LONGEST_HOST_LABEL:
        room = len(job.name) - (len(longest) - LONGEST_HOST_LABEL)
        raise UserError(
            f"--name={job.name} is too long for {job.workers} workers, whose names may have {LONGEST_HOST_LABEL} characters: "
            f"use at most {room}"
        )


def _fill_pod(template: dict[str, Any], job: Job, name: str) -> None:
    labels = {key: value for key, value in job.labels.items() if key != _QUEUE_LABEL}
    template["metadata"]["labels"] |= {INSTANCE_LABEL: name} | labels
    pod = template["spec"]
    pod["subdomain"] = name
    pod["terminationGracePeriodSeconds"] = math.ceil(job.training.grace_period) + _SLACK
    if job.service_account is not None:
        pod["serviceAccountName"] = job.service_account
    container = next(each for each in pod["containers"] if each["name"] == CONTAINER)
    container["image"] = job.image
    container["args"] = [*_patience(container["args"], job), *map(escape, job.arguments)]
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"POSTER_JOB_ID": name, "POSTER_WORKERS": str(job.workers), "POSTER_SERVICE": name}
    variables |= {key: escape(value) for key, value in job.env.items()}
    container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
    amounts = {"cpu": job.cpu, "memory": job.memory}
    for resources in container["resources"].values():
        resources |= {key: amount for key, amount in amounts.items() if amount is not None}
    if job.device:
        selector, limits = pod["nodeSelector"], container["resources"]["limits"]
        if job.device.is_tpu:
            selector["cloud.google.com/gke-tpu-accelerator"] = job.device.type
            selector["cloud.google.com/gke-tpu-topology"] = job.device.topology
            limits["google.com/tpu"] = str(job.device.count)
        else:
            selector["cloud.google.com/gke-accelerator"] = job.device.type
            limits["nvidia.com/gpu"] = str(job.device.count)


def _patience(arguments: list[str], job: Job) -> Iterator[str]:
    """Of the flags in k8s/, those that make workers outlast the job controller's back-off, as far as the user does not set them."""
    for argument in arguments:
        flag = argument.partition("=")[0].removeprefix("--")
        if flag in ("rejoin", "peer_timeout") and not is_given(flag, job.arguments):
            yield argument


def escape(text: str) -> str:
    """A text as it must be written in args and env to arrive unchanged: Kubernetes reads $(NAME) as a variable, and $$ as $."""
    return text.replace("$", "$$")
