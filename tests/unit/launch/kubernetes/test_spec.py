"""The spec of a job on Kubernetes: golden files, and the rules that each spec obeys."""

import contextlib
import io
import re

import kubernetes_validate
import pytest
import yaml

from launch.job import Job
from launch.kubernetes import spec as kubernetes
from tests.fakes.kubernetes import rules
from tests.support import golden_specs
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
        ({"arguments": ("--data_dir=d", "--job_dir=gs://b/j")}, "--data_dir=d is not in a bucket, but the workers run on other"),
        ({"arguments": ("--data_dir=gs://b/d", "--job_dir=/jobs/j")}, "--job_dir=/jobs/j is not in a bucket"),
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


@pytest.mark.parametrize("flag", ["cache", "weights"])
def test_a_bucket_is_mounted_for_any_folder_of_the_job(flag):
    def volumes(path):
        objects = specify(arguments=(*PATHS, "--model=resnet50_v2", f"--{flag}={path}"))
        return {each["name"] for each in kubernetes.job_spec(objects[0])["template"]["spec"]["volumes"]}

    assert volumes("/gcs/films/x.weights.h5") - volumes("/tmp/x.weights.h5") == {"gcs"}


def test_the_notice_of_a_spot_vm_is_long_enough_for_the_default_grace_period():
    arguments = [(*PATHS, f"--grace_period={seconds}") for seconds in (15, 15.5)]
    assert [len(list(kubernetes.notes(Job(arguments=each, image="i", spot=True)))) for each in arguments] == [0, 1]
    assert not list(kubernetes.notes(Job(arguments=arguments[1], image="i")))


def test_warnings_about_a_job():
    job = Job(arguments=(*PATHS, "--grace_period=60"), image="i", spot=True, env={"HF_TOKEN": "s3", "COLOUR": "red"})
    notes = list(kubernetes.notes(job))
    assert [note.split("=")[0] for note in notes] == ["--env", "--grace_period"]
    assert not any("s3" in note or "COLOUR" in note for note in notes)
    assert not list(kubernetes.notes(Job(arguments=PATHS, image="i", spot=True)))
