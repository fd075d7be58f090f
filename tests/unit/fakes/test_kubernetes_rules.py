"""The rules that each spec on Kubernetes obeys: each of them finds the mistake that it is for."""

import ast
import copy
import inspect
import re

import pytest

from launch.job import Job
from launch.kubernetes import spec
from tests.fakes.kubernetes import rules

POD = "Job/spec/template/spec"
TRAINER = f"{POD}/containers/0"
CHILD = "JobSet/spec/replicatedJobs/0/template/spec"

# A change to a spec, and the rule that it breaks. None deletes the field.
MUTATIONS = [
    ("Job/spec/completionMode", "NonIndexed", "completionMode"),
    ("Job/spec/parallelism", 1, "completions and parallelism differ"),
    ("Job/spec/completions", 3, "completions and parallelism differ"),
    ("Job/spec/completions", 3, "POSTER_WORKERS is not completions"),
    ("Job/spec/podFailurePolicy", None, "no podFailurePolicy"),
    (f"{POD}/restartPolicy", "OnFailure", "need restartPolicy Never"),
    ("Job/spec/podReplacementPolicy", "TerminatingOrFailed", "podReplacementPolicy is not Failed"),
    ("Job/spec/activeDeadlineSeconds", None, "no activeDeadlineSeconds"),
    ("Job/spec/backoffLimitPerIndex", None, "backoffLimitPerIndex is missing"),
    ("Job/spec/maxFailedIndexes", 1, "backoffLimitPerIndex is missing"),
    (f"{CHILD}/backoffLimit", 6, "the child of a JobSet restarts"),
    (f"{CHILD}/backoffLimitPerIndex", 3, "the child of a JobSet restarts"),
    ("Job/spec/podFailurePolicy/rules/0/onExitCodes", {"operator": "In", "values": [1]}, "not just one requirement"),
    ("Job/spec/podFailurePolicy/rules/2/onExitCodes/values", [143, 75], "are not ordered"),
    ("Job/spec/podFailurePolicy/rules/2/onExitCodes/containerName", "worker", "names no container"),
    ("Job/spec/podFailurePolicy/rules/2/onExitCodes/values", [75], "exit 143 comes to Count"),
    ("Job/spec/podFailurePolicy/rules/1/action", "Ignore", "exit 2 comes to Ignore"),
    ("Job/spec/podFailurePolicy/rules/2/onExitCodes/operator", "NotIn", "exit 1 comes to Ignore"),
    ("Job/spec/podFailurePolicy/rules/0", None, "a disruption is not the first rule"),
    ("Job/spec/podFailurePolicy/rules/0/onPodConditions/0/status", "False", "a disruption is not the first rule"),
    ("JobSet/spec/replicatedJobs/0/replicas", 2, "not just one child"),
    ("JobSet/spec/network/enableDNSHostnames", None, "a Service of its own"),
    ("JobSet/spec/failurePolicy/maxRestarts", None, "no maxRestarts"),
    ("JobSet/spec/failurePolicy/rules", [], "exit 2 does not fail the JobSet"),
    ("JobSet/spec/failurePolicy/rules/0/name", "ends-for-good", "a rule's name is not valid"),
    (f"{TRAINER}/env/4/name", "POSTER_PORT", "a variable is set twice"),
    (f"{TRAINER}/env/1/value", "1", "POSTER_WORKERS is not completions"),
    (f"{TRAINER}/env/0/value", "", "no POSTER_JOB_ID"),
    (f"{TRAINER}/env/2/value", "other", "POSTER_SERVICE is not"),
    (f"{TRAINER}/env/3/value", "2223", "POSTER_PORT is not a port"),
    (f"{POD}/hostNetwork", True, "hides the pod's index"),
    (f"{TRAINER}/volumeMounts/1", None, "a volume is not mounted"),
    (f"{POD}/volumes/1/emptyDir", {}, "/dev/shm is not memory"),
    (f"{TRAINER}/env/4/value", "/home/trainer", "HOME cannot be written"),
    (f"{TRAINER}/resources/requests/memory", "1Gi", "memory has no limit"),
    (f"{TRAINER}/resources/limits/cpu", None, "cpu has no limit"),
    (f"{TRAINER}/resources/limits/nvidia.com~gpu", "0.5", "is not a whole number"),
    (f"{POD}/terminationGracePeriodSeconds", 16, "killed before its guard"),
    (f"{TRAINER}/args/0", "--rejoins=30", "--rejoin or --peer_timeout is missing"),
    (f"{TRAINER}/args/0", "--peer_timeout=1", "--rejoin or --peer_timeout is missing"),
    (f"{POD}/securityContext/runAsUser", 0, "the worker may be root"),
    (f"{POD}/securityContext/seccompProfile", None, "no seccomp"),
    (f"{TRAINER}/securityContext/capabilities", None, "keeps privileges"),
    (f"{TRAINER}/securityContext/allowPrivilegeEscalation", True, "keeps privileges"),
    (f"{TRAINER}/securityContext/readOnlyRootFilesystem", None, "root file system can be written"),
    (f"{POD}/automountServiceAccountToken", None, "a token is mounted"),
    (f"{POD}/enableServiceLinks", None, "can set POSTER_PORT"),
    ("Job/spec/template/metadata/annotations", {}, "mesh's sidecar"),
    ("Job/spec/template/metadata/labels/sidecar.istio.io~inject", None, "mesh's sidecar"),
    ("Service/spec/clusterIP", None, "not headless"),
    ("Service/spec/publishNotReadyAddresses", None, "have no address"),
    ("Service/metadata/name", "other", "subdomain is not the Service's name"),
    ("Service/spec/selector", {"app": "other"}, "does not select"),
    ("Service/metadata/namespace", "other", "in another namespace"),
    ("Job/metadata/name", "a" * 62, "is not a host name"),
    ("JobSet/metadata/name", "a" * 50, "is not a host name"),
    ("Job/metadata/name", "2-films", "is not a host name"),
]


def mutated(path, value):
    arguments = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")
    described = Job(arguments=arguments, image="i", name="film", workers=2, jobset=path.startswith("JobSet"))
    objects = copy.deepcopy(spec.specify(described, name="film-1"))
    kind, *steps = path.split("/")
    parent = next(each for each in objects if each["kind"] == kind)
    for step in steps[:-1]:
        parent = parent[int(step)] if isinstance(parent, list) else parent[step]
    last = int(steps[-1]) if isinstance(parent, list) else steps[-1].replace("~", "/")
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    return objects


@pytest.mark.parametrize(("path", "value", "says"), MUTATIONS)
def test_a_mutation_breaks_its_rule(path, value, says):
    assert any(says in line for line in rules.violations(mutated(path, value)))


def test_every_rule_has_a_mutation_that_breaks_it():
    """Each violation that the rules can report is reported for some mutation."""
    said = {line for path, value, _ in MUTATIONS for line in rules.violations(mutated(path, value))}
    patterns = []
    for node in ast.walk(ast.parse(inspect.getsource(rules))):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
            patterns.append("".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts))
    assert len(patterns) > 35
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in said)] == []
