"""Turns a job into Kubernetes objects: an Indexed Job or a JobSet, and a headless Service, built from the files in k8s/."""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from launch import buckets
from launch.job import GUARD_MARGIN, SECRET, Job, is_given
from launch.kubernetes import kustomize
from trainer.cluster.discovery import LONGEST_HOST_LABEL
from trainer.errors import UserError

APP = "poster-trainer"
NAME_LABEL, INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"
CONTAINER = "trainer"

# Kueue's label: on the job it queues the job as a whole, on a pod it would queue that pod alone.
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

_SPOT_NOTICE = 15  # Seconds that GKE gives a pod to end when its Spot VM is preempted.

_SERVICE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_RARE_BREAK = re.compile("[\x85\u2028\u2029]")
_LIKE_A_VALUE = re.compile("[-+.]?[0-9][-+.:_0-9eE]*|[-+]?0[xob][_0-9a-fA-F]+|[yYnN]")  # In YAML 1.1 or 1.2.


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """Returns objects as a YAML stream."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True, explicit_start=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # Write a repeated value in full each time.
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Other YAML readers parse a plain 1e3 or y as a number or a boolean, and only double quotes keep these line breaks.
        style = '"' if _RARE_BREAK.search(data) else "'" if _LIKE_A_VALUE.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def notes(job: Job) -> Iterator[str]:
    """Yields warnings about a job that can run."""
    for key in job.env:
        if SECRET.search(key):
            yield f"--env={key}=… can be read by everyone who may read the job's spec: use Workload Identity instead if you can"
    if job.spot and job.training.grace_period > _SPOT_NOTICE:
        yield f"--grace_period={job.training.grace_period:g} is longer than the {_SPOT_NOTICE} s that GKE gives a pod on a Spot VM"


def specify(job: Job, *, name: str) -> list[dict[str, Any]]:
    """Returns the objects of a job: first the Job or JobSet, then the Service.

    Args:
      job: the job.
      name: the name of this launch, the same for all workers and their restarts.

    Raises:
      UserError: Kubernetes cannot run the job.
    """
    job.check_image()
    for flag in ("data_dir", "job_dir"):
        buckets.to_uri(flag, getattr(job.training, flag))
    if job.service_account is not None and not _SERVICE_ACCOUNT.fullmatch(job.service_account):
        raise UserError(
            f"--service_account={job.service_account} is not a Kubernetes service account: name one in the job's namespace, and "
            "grant it roles on Google Cloud with Workload Identity"
        )
    _check_names(job, name)
    workload, service = kustomize.build(_components(job))
    batch = job_spec(workload)
    batch |= {"completions": job.workers, "parallelism": job.workers}
    if job.time_limit is not None:
        batch["activeDeadlineSeconds"] = math.ceil(job.time_limit)
    if job.jobset:
        workload["spec"]["failurePolicy"]["maxRestarts"] = job.restarts
    else:
        batch["backoffLimitPerIndex"] = job.restarts
    own = {NAME_LABEL: APP, INSTANCE_LABEL: name}
    for one in (workload, service):
        namespace = {"namespace": job.namespace} if job.namespace else {}
        one["metadata"] = {"name": name, **namespace, "labels": {**own, **job.labels}}
    service["spec"]["selector"] = own
    _fill_pod(batch["template"], job, name)
    return [{key: one[key] for key in ("apiVersion", "kind", "metadata", "spec")} for one in (workload, service)]


def job_spec(workload: dict[str, Any]) -> dict[str, Any]:
    """Returns the JobSpec of a Job, or of the only child of a JobSet."""
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
        "jobset": job.jobset,  # Last, because the patches of the others apply to a Job.
    }
    return [component for component, is_wanted in wanted.items() if is_wanted]


def _check_names(job: Job, name: str) -> None:
    # Kubernetes truncates a longer host name of a pod, and then the workers do not find each other. A JobSet also limits the pods'
    # names, which are six characters longer than their host names.
    prefix, suffix = ("-worker-0", "-abcde") if job.jobset else ("", "")
    longest = f"{name}{prefix}-{job.workers - 1}{suffix}"
    if len(longest) > LONGEST_HOST_LABEL:
        room = len(job.name) - (len(longest) - LONGEST_HOST_LABEL)
        raise UserError(
            f"--name={job.name} is too long for {job.workers} workers, whose host names may have {LONGEST_HOST_LABEL} characters: "
            f"use at most {room} characters"
        )


def _fill_pod(template: dict[str, Any], job: Job, name: str) -> None:
    labels = {key: value for key, value in job.labels.items() if key != _QUEUE_LABEL}
    template["metadata"]["labels"] |= {INSTANCE_LABEL: name} | labels
    pod = template["spec"]
    pod["subdomain"] = name
    pod["terminationGracePeriodSeconds"] = math.ceil(job.training.grace_period + GUARD_MARGIN)
    if job.service_account is not None:
        pod["serviceAccountName"] = job.service_account
    container = next(each for each in pod["containers"] if each["name"] == CONTAINER)
    container["image"] = job.image
    container["args"] = [*_waiting_flags(container["args"], job), *map(escape, job.arguments)]
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


def _waiting_flags(arguments: list[str], job: Job) -> Iterator[str]:
    """Yields the flags in k8s/ that let workers outlast the job controller's back-off, except those that the user sets."""
    for argument in arguments:
        flag = argument.partition("=")[0].removeprefix("--")
        if flag in ("rejoin", "peer_timeout") and not is_given(flag, job.arguments):
            yield argument


def escape(text: str) -> str:
    """Escapes a text for args and env, where Kubernetes expands $(NAME) to a variable and $$ to $."""
    return text.replace("$", "$$")
