"""The spec of a job on Kubernetes: golden files, the rules that each spec obeys, and k8s/ as other tools build it."""

import ast
import contextlib
import copy
import inspect
import io
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from launch import job_file
from launch.job import Job
from launch.kubernetes import kustomize
from launch.kubernetes import spec as kubernetes
from tests.fakes.kubernetes import rules
from tests.support import golden_specs
from tests.support.commands import REPOSITORY, run
from trainer.errors import UserError

PATHS = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")
CASES = list(golden_specs.KUBERNETES)

# The first version that has all fields on by default (podReplacementPolicy, backoffLimitPerIndex), and the newest with schemas.
OLDEST, NEWEST = "1.29.0", kubernetes_validate.latest_version()


def specify(*, name="film-1", **fields):
    return kubernetes.specify(Job(**({"arguments": PATHS, "image": "i", "name": "film"} | fields)), name=name)


def container(objects):
    return kubernetes.job_spec(objects[0])["template"]["spec"]["containers"][0]


def golden(case):
    return list(yaml.safe_load_all(golden_specs.path(case).read_text()))


@pytest.mark.parametrize("case", CASES)
def test_a_command_prints_its_golden_spec(case):
    assert golden_specs.render(case) == golden_specs.path(case).read_text(), (
        "if the change is intended: python -m tests.support.golden_specs"
    )


def test_every_golden_spec_has_a_command():
    assert {path.stem for path in golden_specs.FOLDER.glob("kubernetes-*")} == set(CASES)


def validate(found, version):
    """Validates an object against the schemas of a version; of a JobSet, its child as a Job."""
    if found["kind"] == "JobSet":
        spec = found["spec"]["replicatedJobs"][0]["template"]["spec"]
        found = {"apiVersion": "batch/v1", "kind": "Job", "metadata": found["metadata"], "spec": spec}
    kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_a_spec_is_strictly_valid(case, version):
    for found in golden(case):
        validate(found, version)


def test_the_schemas_are_strict():
    for version in (OLDEST, NEWEST):
        for path, value in ((("backofLimit",), 1), (("completions",), "two"), (("template", "spec", "volums"), [])):
            job, _ = specify()
            parent = job["spec"]
            for step in path[:-1]:
                parent = parent[step]
            parent[path[-1]] = value
            with pytest.raises(kubernetes_validate.ValidationError):
                validate(job, version)
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(specify()[0], "1.25.0")  # This version has no backoffLimitPerIndex.


@pytest.mark.parametrize("case", CASES)
def test_a_spec_breaks_no_rule(case):
    assert rules.violations(golden(case)) == []


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
    objects = copy.deepcopy(specify(workers=2, jobset=path.startswith("JobSet")))
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


COMPONENTS = ["gpu", "tpu", "spot", "gcsfuse", "jobset"]


def by_kind(objects):
    return {each["kind"]: each for each in objects}


def kubectl_kustomize(folder):
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_kustomize_builds_the_objects_that_launch_builds(component):
    folder = REPOSITORY / "k8s" / ("base" if component is None else f"overlays/{component}")
    assert by_kind(kubectl_kustomize(folder)) == by_kind(kustomize.build([component] if component else []))


@pytest.mark.parametrize("components", [("gpu", "spot"), ("tpu", "spot", "gcsfuse"), ("gpu", "spot", "gcsfuse", "jobset")])
def test_kustomize_combines_components_as_launch_does(tmp_path, components):
    shutil.copytree(REPOSITORY / "k8s", tmp_path / "k8s")
    mine = {"resources": ["../k8s/base"], "components": [f"../k8s/components/{each}" for each in components]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(yaml.safe_dump(mine))
    assert by_kind(kubectl_kustomize(tmp_path / "mine")) == by_kind(kustomize.build(components))


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_overlay_is_the_base_and_patches_alone(component):
    """Reads kustomization.yaml as its documentation describes it, and applies the patches with another implementation."""
    overlay = yaml.safe_load((REPOSITORY / f"k8s/overlays/{component}/kustomization.yaml").read_text())
    assert overlay.keys() == {"apiVersion", "kind", "resources", "components"}
    assert (overlay["resources"], overlay["components"]) == (["../../base"], [f"../../components/{component}"])
    folder = REPOSITORY / f"k8s/components/{component}"
    described = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert described.keys() == {"apiVersion", "kind", "patches"}
    assert described["kind"] == "Component"
    job = yaml.safe_load((REPOSITORY / "k8s/base/job.yaml").read_text())
    for patch in described["patches"]:
        assert patch["target"] == {"kind": "Job"}
        for operation in yaml.safe_load((folder / patch["path"]).read_text()):
            assert operation.keys() == {"op", "path", "from" if operation["op"] == "move" else "value"} - (
                {"value"} if operation["op"] == "remove" else set()
            )
            job = applied(job, operation)
    assert job == kustomize.build([component])[0]


def applied(job, operation):
    """Applies one operation to the values at all pointers: independent of launch's implementation, and slower."""
    values = dict(flattened(job))
    target = operation["path"]
    if "from" in operation:
        source = operation["from"]
        moved = {pointer: value for pointer, value in values.items() if pointer == source or pointer.startswith(source + "/")}
        values = {pointer: value for pointer, value in values.items() if pointer not in moved}
        values |= {target + pointer.removeprefix(source): value for pointer, value in moved.items()}
        return unflattened(values)
    if target.endswith("/-"):
        siblings = [pointer for pointer in values if re.fullmatch(re.escape(target[:-1]) + r"\d+(/.*)?", pointer)]
        numbers = {int(pointer.removeprefix(target[:-1]).partition("/")[0]) for pointer in siblings}
        target = f"{target[:-1]}{len(numbers)}"
    values = {pointer: value for pointer, value in values.items() if pointer != target and not pointer.startswith(target + "/")}
    if operation["op"] != "remove":
        values |= {target + pointer: value for pointer, value in flattened(operation["value"])}
    return unflattened(values)


def flattened(value, pointer=""):
    """Yields the type of each container and the value of each leaf, by JSON pointer."""
    yield pointer, type(value) if isinstance(value, dict | list) else value
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(each, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")


def unflattened(values):
    """Builds the document whose `flattened` values these are."""
    made = {}
    for pointer in sorted(values, key=lambda pointer: [step.zfill(6) for step in pointer.split("/")]):
        value = values[pointer]() if isinstance(values[pointer], type) else values[pointer]
        made[pointer] = value
        if pointer:
            parent, _, step = pointer.rpartition("/")
            if isinstance(made[parent], list):
                made[parent].append(value)
            else:
                made[parent][step.replace("~1", "/").replace("~0", "~")] = value
    return made[""]


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/a/-", "value": 3}, {"a": [1, 2, 3], "b/c": {}}),
        ({"op": "add", "path": "/a/0", "value": 3}, {"a": [3, 1, 2], "b/c": {}}),
        ({"op": "add", "path": "/b~1c/~0", "value": 3}, {"a": [1, 2], "b/c": {"~": 3}}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2], "b/c": {}}),
        ({"op": "replace", "path": "/a/1", "value": 3}, {"a": [1, 3], "b/c": {}}),
        ({"op": "move", "from": "/a", "path": "/b~1c/d"}, {"b/c": {"d": [1, 2]}}),
        ({"op": "replace", "path": "", "value": 3}, 3),
    ],
)
def test_patches_follow_rfc_6902(operation, result):
    document = {"a": [1, 2], "b/c": {}}
    assert kustomize.patch(document, [operation]) == result
    assert document == {"a": [1, 2], "b/c": {}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/c"},
        {"op": "replace", "path": "/c", "value": 1},
        {"op": "add", "path": "/c/d", "value": 1},
        {"op": "add", "path": "/a/3", "value": 1},
        {"op": "remove", "path": "/a/2"},
        {"op": "move", "from": "/c", "path": "/d"},
        {"op": "copy", "from": "/a", "path": "/d"},
    ],
)
def test_a_patch_that_does_not_fit_is_an_error(operation):
    with pytest.raises((KeyError, IndexError, ValueError)):
        kustomize.patch({"a": [1, 2]}, [operation])


def expand(text, variables):
    """Returns what a container gets for a text in args or env, as Kubernetes' API reference describes it.

    $(NAME) becomes the variable's value, and stays if the variable is not set; $$ becomes $ and does not begin a reference.
    """
    pieces = re.findall(r"\$\$|\$\([^)]*\)|.", text, re.DOTALL)
    out = io.StringIO()
    for piece in pieces:
        if piece == "$$":
            out.write("$")
        elif len(piece) > 1:
            out.write(variables.get(piece[2:-1], piece))
        else:
            out.write(piece)
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "'single' \"double\"",
        "two\nlines\n",
        "$(HOME)",
        "$$(HOME)",
        "$$$(HOME)",
        "$",
        "$$",
        "a$b",
        "$(",
        "$(HOME",
        "$()",
        "\\$(HOME)",
        "é 日本 🎬",
        "- [x]: {y} # z",
        "true",
        "0x1F",
        " leading and trailing ",
        "--",
        "tab\there",
        "\u2028",
        "%s {0}",
    ],
)
def test_arguments_and_variables_reach_the_worker_unchanged(text):
    arguments = (*PATHS, f"--cache={text}")
    stream = kubernetes.to_yaml(specify(arguments=arguments, env={"TEXT": text}))
    worker = container(list(yaml.safe_load_all(stream)))
    variables: dict[str, str] = {"JOB_COMPLETION_INDEX": "0", "HOME": "/home/of/the/pod"}
    for each in worker["env"]:
        variables[each["name"]] = expand(each["value"], variables)
    assert variables["TEXT"] == text
    assert [expand(each, variables) for each in worker["args"]][-3:] == list(arguments)


def test_the_expansion_of_the_test_agrees_with_kubernetes():
    # Examples from the API reference and from Kubernetes' own tests.
    variables = {"VAR_A": "A", "VAR_B": "B", "VAR_EMPTY": ""}
    for text, expanded in {
        "$(VAR_A)": "A",
        "___$(VAR_B)___": "___B___",
        "$(VAR_A)_$(VAR_B)": "A_B",
        "$$(VAR_B)_$(VAR_A)": "$(VAR_B)_A",
        "$$$(VAR_A)": "$A",
        "f000-$$VAR_A": "f000-$VAR_A",
        "foo\\$(VAR_C)bar": "foo\\$(VAR_C)bar",
        "foo$(VAR_EMPTY)bar": "foobar",
        "$VAR_A": "$VAR_A",
        "$(VAR_A": "$(VAR_A",
    }.items():
        assert expand(text, variables) == expanded


def test_workers_outlast_the_back_off_unless_the_user_says_otherwise():
    args = container(specify())["args"]
    peer_timeout = float(next(each for each in args if each.startswith("--peer_timeout=")).partition("=")[2])
    assert peer_timeout > 600 + 60  # The job controller's longest back-off, and the start of a pod.
    assert "--rejoin=30" in args
    args = container(specify(arguments=(*PATHS, "--rejoin=2")))["args"]
    assert [each for each in args if "rejoin" in each] == ["--rejoin=2"]
    assert "--peer_timeout=900" in args
    args = container(specify(arguments=(*PATHS, "--peer_timeout", "5")))["args"]
    assert args[-2:] == ["--peer_timeout", "5"]
    assert "--peer_timeout=900" not in args


def test_a_users_variable_replaces_the_default():
    environment = {each["name"]: each["value"] for each in container(specify(env={"HOME": "/tmp/me", "A": "$x"}))["env"]}
    assert environment["HOME"] == "/tmp/me"
    assert environment["A"] == "$$x"


def test_a_queue_holds_the_job_and_not_its_pods():
    objects = specify(labels={"kueue.x-k8s.io/queue-name": "q", "team": "films"})
    assert objects[0]["metadata"]["labels"].items() >= {"kueue.x-k8s.io/queue-name": "q", "team": "films"}.items()
    labels = objects[0]["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "films"
    assert "kueue.x-k8s.io/queue-name" not in labels


@pytest.mark.parametrize("jobset", [False, True])
def test_a_name_leaves_room_for_the_index(jobset):
    longest = {}
    for workers in (1, 10, 100, 100_000):
        for length in range(40, 0, -1):
            with contextlib.suppress(UserError):
                objects = specify(name="a" * length + "-0a1b2c3d", workers=workers, jobset=jobset)
                longest[workers] = length
                assert rules.violations(objects) == []
                break
    assert longest == ({1: 37, 10: 37, 100: 36, 100_000: 33} if jobset else dict.fromkeys(longest, 40))


def test_the_error_of_a_long_name_says_how_long_it_may_be():
    job = Job(arguments=PATHS, image="i", name="a" * 40, workers=100, jobset=True)
    with pytest.raises(UserError, match=r"is too long for 100 workers.*use at most 36"):
        kubernetes.specify(job, name=job.new_name())
    job = Job(arguments=PATHS, image="i", name="a" * 36, workers=100, jobset=True)
    kubernetes.specify(job, name=job.new_name())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": None}, "--image is missing: name"),
        ({"image": "two words"}, "--image=two words"),
        ({"workers": 0}, "--workers must be at least 1 and at most 100000, got 0"),
        ({"accelerator": "nvidia-l5"}, "--accelerator=nvidia-l5 is unknown: did you mean nvidia-l4"),
        ({"accelerator": "NVIDIA_TESLA_T4"}, "did you mean nvidia-tesla-t4"),
        ({"accelerator": "nvidia-l4:0"}, "--accelerator must be TYPE or TYPE:COUNT, such as nvidia-l4:2, got 'nvidia-l4:0'"),
        ({"accelerator": "nvidia-l4:"}, "--accelerator must be TYPE or TYPE:COUNT, such as nvidia-l4:2, got 'nvidia-l4:'"),
        ({"accelerator": "nvidia-l4:16"}, "more than one machine has: use at most nvidia-l4:8"),
        ({"accelerator": "tpu-v5-lite-podslice:2"}, "use tpu-v5-lite-podslice:1 or"),
        ({"accelerator": "tpu-v4-podslice", "workers": 2}, "supports one worker, not --workers=2"),
        ({"accelerator": "tpu-v4-podslice", "arguments": (*PATHS, "--strategy=mirrored")}, "--strategy=mirrored does not use"),
        ({"accelerator": "nvidia-l4", "arguments": (*PATHS, "--strategy=tpu")}, "--strategy=tpu does not use"),
        ({"cpu": "0"}, "--cpu must be a number of cores above 0, such as 4 or 500m, got '0'"),
        ({"cpu": "four"}, "--cpu must be a number of cores above 0, such as 4 or 500m, got 'four'"),
        ({"memory": "16"}, "--memory must be an amount above 0 with its unit, such as 16Gi, got '16'"),
        ({"memory": "0Gi"}, "--memory must be an amount above 0 with its unit, such as 16Gi, got '0Gi'"),
        ({"memory": "16GB"}, "--memory must be an amount above 0 with its unit, such as 16Gi, got '16GB'"),
        ({"labels": {"a b": "c"}}, "--label=a b=c is not a valid label"),
        ({"labels": {"a": "b c"}}, "--label=a=b c is not a valid label"),
        ({"labels": {"a": "b" * 64}}, "is not a valid label"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "is set by the launcher: leave it out"),
        ({"namespace": "Films"}, "--namespace must be up to 63 lower-case letters, digits and '-', got 'Films'"),
        ({"service_account": "trainer@films.iam.gserviceaccount.com"}, "is not a Kubernetes service account"),
        ({"service_account": ""}, "--service_account= is empty"),
    ],
)
def test_the_error_of_a_wrong_field_names_its_value_and_the_remedy(fields, says):
    with pytest.raises(UserError, match=re.escape(says)):
        specify(**fields)


def test_warnings_about_a_job():
    job = Job(arguments=(*PATHS, "--grace_period=60"), image="i", spot=True, env={"HF_TOKEN": "s3", "COLOUR": "red"})
    notes = list(kubernetes.notes(job))
    assert [note.split("=")[0] for note in notes] == ["--env", "--grace_period"]
    assert not any("s3" in note or "COLOUR" in note for note in notes)
    assert not list(kubernetes.notes(Job(arguments=PATHS, image="i", spot=True)))


FILE = """
name: film
image: registry/film:1
workers: 2
accelerator: nvidia-l4:1
cpu: 4
memory: 16Gi
env: {COLOUR: red, DEPTH: 3}
labels: {team: films}
spot: true
time_limit: 3600
arguments: [--data_dir=gs://b/d, --job_dir=gs://b/j, --epochs=2]
"""


def read(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)
    return job_file.read(str(tmp_path / "job.yaml"))


def test_a_job_file_has_the_fields_as_keys(tmp_path):
    job = Job(**read(tmp_path, FILE))
    assert (job.name, job.workers, job.cpu, job.spot, job.time_limit) == ("film", 2, "4", True, 3600)
    assert (job.env, job.training.epochs) == ({"COLOUR": "red", "DEPTH": "3"}, 2)
    assert read(tmp_path, "") == {}
    assert read(tmp_path, "image:") == {}


def test_flags_override_a_job_file(tmp_path):
    (tmp_path / "job.yaml").write_text(FILE)
    flags = ("--target=kubernetes", f"--job_file={tmp_path}/job.yaml", "--dry_run", "--workers=4", "--nospot", "--env=DEPTH=4")
    job, _ = yaml.safe_load_all(run("launch", *flags, "--", "--epochs=5").stdout)
    assert (job["spec"]["completions"], job["metadata"]["labels"]["team"]) == (4, "films")
    assert list(job["spec"]["template"]["spec"]["nodeSelector"]) == ["cloud.google.com/gke-accelerator"]
    worker = container([job])
    assert [each["value"] for each in worker["env"] if each["name"] in ("COLOUR", "DEPTH")] == ["red", "4"]
    assert worker["args"][-2:] == ["--epochs=2", "--epochs=5"]  # The last one wins.


def test_text_in_a_job_file_is_kept_as_written(tmp_path):
    text = "env: {A: 010, B: 1.10, C: 12:30:00, D: yes, E: 2024-13-45, F: 1e3}\ncpu: 010\nworkers: 2\ntime_limit: 1e6\nspot: true"
    found = read(tmp_path, text)
    assert found["env"] == {"A": "010", "B": "1.10", "C": "12:30:00", "D": "yes", "E": "2024-13-45", "F": "1e3"}
    assert (found["cpu"], found["workers"], found["time_limit"], found["spot"]) == ("010", 2, 1e6, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker: 2", "'worker' is not a field of a job: did you mean workers?"),
        ("xyz: 2", "'xyz' is not a field of a job: choose one of arguments, name"),
        ("target: local", "'target' is not a field of a job"),
        ("- a", "must be a mapping"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "must be a mapping"),
        ("workers: two", "workers must be a number, got 'two'"),
        ("workers: true", "workers must be a number, got 'true'"),
        ("workers: 1.5", "workers must be a number, got '1.5'"),
        ("spot: 1", "spot must be true or false, got '1'"),
        ("arguments: --epochs=2", "arguments must be a list"),
        ("arguments: [[3]]", "arguments must be a list"),
        ("env: [A=b]", "env must be a mapping"),
        ("env: {A: [hunter2]}", "env must be a mapping of strings"),
        ("workers: 2\nworkers: 3", "'workers' appears twice"),
        ("[" * 3000, "nested too deeply"),
        (f"workers: {'9' * 5000}", "must be a number"),
        (
            f"arguments: [--data_dir=d, --job_dir=j]\ntime_limit: 1{'0' * 400}",
            "--time_limit must be above 0 and at most 31622400 seconds (a year), got inf",
        ),
        ("image: [a]", "image must be a string"),
        ("workers: 0\narguments: [--data_dir=d, --job_dir=j]", "--workers must be at least 1"),
    ],
)
def test_a_wrong_job_file_is_an_error_in_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=re.escape(says)):
        Job(**read(tmp_path, text))


def test_a_missing_job_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--job_file=.*/none.yaml cannot be read \(No such file"):
        job_file.read(str(tmp_path / "none.yaml"))
