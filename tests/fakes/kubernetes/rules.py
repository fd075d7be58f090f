"""Checks a job's objects beyond their schemas: rules of Kubernetes, and what the workers need to find each other.

It reads only the objects, and shares no code with launch.
"""

import re
from collections.abc import Iterator
from typing import Any

_POSTER_EXITS = {2: "FailJob", 75: "Ignore", 143: "Ignore"}


def violations(objects: list[dict[str, Any]]) -> list[str]:
    """Returns what is wrong with the objects of one job, one line each; empty if nothing is."""
    return list(_violations(objects))


def _violations(objects: list[dict[str, Any]]) -> Iterator[str]:
    workload = next(each for each in objects if each["kind"] in ("Job", "JobSet"))
    service = next(each for each in objects if each["kind"] == "Service")
    is_set = workload["kind"] == "JobSet"
    job = workload["spec"]["replicatedJobs"][0]["template"]["spec"] if is_set else workload["spec"]
    yield from _of_job(job, is_set)
    if is_set:
        yield from _of_set(workload["spec"])
    yield from _of_pod(job["template"], job)
    yield from _of_service(service, job["template"])
    yield from _of_names(workload, service, job, is_set)


def _of_job(job: dict[str, Any], is_set: bool) -> Iterator[str]:
    if job.get("completionMode") != "Indexed":
        yield "completionMode is not Indexed: pods get no index"
    if job.get("completions") is None or job["completions"] != job.get("parallelism"):
        yield "completions and parallelism differ: not all workers run at once"
    if "podFailurePolicy" not in job:
        yield "no podFailurePolicy: every end is counted"
    if job["template"]["spec"].get("restartPolicy") != "Never":
        yield "podFailurePolicy and backoffLimitPerIndex need restartPolicy Never"
    if job.get("podReplacementPolicy") != "Failed":
        yield "podReplacementPolicy is not Failed: a worker may have two pods"
    if not job.get("activeDeadlineSeconds", 0) > 0:
        yield "no activeDeadlineSeconds: ends that are not counted let it try for ever"
    if is_set:
        if job.get("backoffLimit") != 0 or "backoffLimitPerIndex" in job or "maxFailedIndexes" in job:
            yield "the child of a JobSet restarts workers itself"
    elif job.get("backoffLimitPerIndex", -1) < 0 or job.get("maxFailedIndexes") != 0:
        yield "backoffLimitPerIndex is missing, or a worker may fail for good"
    rules = job.get("podFailurePolicy", {}).get("rules", [])
    for rule in rules:
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            yield "a rule of podFailurePolicy has not just one requirement"
        codes = rule.get("onExitCodes", {})
        values = codes.get("values", [])
        if codes and (not values or values != sorted(set(values)) or (codes["operator"] == "In" and 0 in values)):
            yield "the exit codes of a rule are not ordered, or repeated, or 0"
        containers = [each["name"] for each in job["template"]["spec"]["containers"]]
        if codes and codes.get("containerName") not in containers:
            yield "a rule of podFailurePolicy names no container"
    wanted = {2: "FailJob"} if is_set else _POSTER_EXITS
    for code in range(1, 256):
        if _action(rules, code) != wanted.get(code, "Count"):
            yield f"exit {code} comes to {_action(rules, code)}"
    # A drained pod exits 143 or is killed, so the rule for disruptions must come before the rules for exit codes.
    if not is_set and not (rules and rules[0]["action"] == "Ignore" and _is_disruption(rules[0])):
        yield "a disruption is not the first rule, Ignore"


def _action(rules: list[dict[str, Any]], code: int) -> str:
    """Returns the action of the first rule that matches an exit code of a pod that was not disrupted."""
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


def _is_disruption(rule: dict[str, Any]) -> bool:
    return rule.get("onPodConditions") == [{"type": "DisruptionTarget", "status": "True"}]


def _of_set(spec: dict[str, Any]) -> Iterator[str]:
    if len(spec["replicatedJobs"]) != 1 or spec["replicatedJobs"][0]["replicas"] != 1:
        yield "a JobSet has not just one child"
    if spec.get("network", {}).get("enableDNSHostnames") is not False:
        yield "the JobSet makes a Service of its own beside ours"
    policy = spec.get("failurePolicy", {})
    rules = policy.get("rules", [])
    if policy.get("maxRestarts", -1) < 0:
        yield "no maxRestarts: the first failure is the last"
    if not rules or rules[0].get("action") != "FailJobSet" or "PodFailurePolicy" not in rules[0].get("onJobFailureReasons", []):
        yield "exit 2 does not fail the JobSet"
    for rule in rules:
        if not re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]):
            yield "a rule's name is not valid"


def _of_pod(template: dict[str, Any], job: dict[str, Any]) -> Iterator[str]:
    pod = template["spec"]
    container = next(each for each in pod["containers"] if each["name"] == "trainer")
    variables = [each["name"] for each in container["env"]]
    if len(set(variables)) != len(variables):
        yield "a variable is set twice"
    environment = {each["name"]: each["value"] for each in container["env"]}
    if environment.get("POSTER_WORKERS") != str(job.get("completions")):
        yield "POSTER_WORKERS is not completions"
    if not environment.get("POSTER_JOB_ID"):
        yield "no POSTER_JOB_ID: a restart waits for the lock"
    if environment.get("POSTER_SERVICE") != pod.get("subdomain"):
        yield "POSTER_SERVICE is not the pods' subdomain"
    if environment.get("POSTER_PORT") not in [str(each["containerPort"]) for each in container["ports"]]:
        yield "POSTER_PORT is not a port of the container"
    if "hostname" in pod or pod.get("hostNetwork"):
        yield "a host name of its own hides the pod's index"
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    if set(mounts.values()) != set(volumes):
        yield "a volume is not mounted, or a mount has no volume"
    if volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {}).get("medium") != "Memory":
        yield "/dev/shm is not memory"
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR"):
        path = environment.get(name, "/")
        if not any(path == mount or path.startswith(f"{mount}/") for mount in mounts):
            yield f"{name} cannot be written"
    resources = container["resources"]
    for name in ("cpu", "memory"):
        if not resources.get("requests", {}).get(name) or resources["requests"][name] != resources.get("limits", {}).get(name):
            yield f"{name} has no limit that is its request"
    for name, amount in resources["limits"].items():
        if "/" in name and not re.fullmatch("[1-9][0-9]*", amount):
            yield f"{name} is not a whole number"
    grace = next((float(each.partition("=")[2]) for each in container["args"] if each.startswith("--grace_period=")), 12.0)
    if pod.get("terminationGracePeriodSeconds", 30) < grace + 5:
        yield "the pod is killed before its guard has ended"
    flags = [each.partition("=")[0] for each in container["args"]]
    if flags.count("--rejoin") != 1 or flags.count("--peer_timeout") != 1:
        yield "--rejoin or --peer_timeout is missing, or there twice"
    yield from _of_security(template, container)


def _of_security(template: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    pod, own = template["spec"], container.get("securityContext", {})
    whole = pod.get("securityContext", {})
    if not (whole.get("runAsNonRoot") and whole.get("runAsUser", 0) > 0):
        yield "the worker may be root"
    if whole.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]} or own.get("privileged"):
        yield "the worker keeps privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "the root file system can be written"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a token is mounted that nothing needs"
    if pod.get("enableServiceLinks") is not False:
        yield "another Service can set POSTER_PORT"
    labels, annotations = template["metadata"].get("labels", {}), template["metadata"].get("annotations", {})
    if labels.get("sidecar.istio.io/inject") != "false" or annotations.get("linkerd.io/inject") != "disabled":
        yield "a mesh's sidecar answers for absent peers"


def _of_service(service: dict[str, Any], template: dict[str, Any]) -> Iterator[str]:
    spec = service["spec"]
    if spec.get("clusterIP") != "None":
        yield "the Service is not headless: pods have no names"
    if spec.get("publishNotReadyAddresses") is not True:
        yield "workers that are not ready have no address"
    if template["spec"].get("subdomain") != service["metadata"]["name"]:
        yield "the pods' subdomain is not the Service's name"
    if not spec.get("selector") or not spec["selector"].items() <= template["metadata"].get("labels", {}).items():
        yield "the Service does not select the pods"


def _of_names(workload: dict[str, Any], service: dict[str, Any], job: dict[str, Any], is_set: bool) -> Iterator[str]:
    name = workload["metadata"]["name"]
    child = f"{name}-{workload['spec']['replicatedJobs'][0]['name']}-0" if is_set else name
    longest = f"{child}-{job['completions'] - 1}" + ("-abcde" if is_set else "")
    for each in (longest, service["metadata"]["name"]):
        if not re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each):
            yield f"{each} is not a host name"
    if workload["metadata"].get("namespace") != service["metadata"].get("namespace"):
        yield "the Service is in another namespace"
