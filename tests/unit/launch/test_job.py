"""The description of a job: what is valid, and how the flags of its workers are read."""

import dataclasses
import inspect
import re

import pytest

from launch.accelerators import Accelerator
from launch.job import OWN_LABELS, OWN_VARIABLES, SECRET, Job, Location, expand, is_given, parse_settings
from launch.kubernetes.api import Pod
from launch.kubernetes.commands import JobState
from launch.local.processes import Spec, Worker, WorkerState
from launch.local.state import JobRecord
from launch.outcome import Outcome
from launch.vertex.api import SubmittedJob
from launch.vertex.machines import Machine
from trainer.errors import UserError

ARGUMENTS = ("--data_dir=d", "--job_dir=j", "--grace_period=7")


def job(**fields):
    return Job(**({"arguments": ARGUMENTS} | fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "--name must be .*, got ''"),
        ({"name": "Film"}, "--name must be .*, got 'Film'"),
        ({"name": "a" * 41}, "--name must be .*, got 'a"),
        ({"name": "film-"}, "--name must be .*, got 'film-'"),
        ({"name": "film\n"}, r"--name must be .*, got 'film\\n'"),
        ({"workers": 0}, "--workers must be at least 1 .*, got 0"),
        ({"restarts": -1}, "--restarts must be at least 0 .*, got -1"),
        ({"time_limit": 0.0}, "--time_limit must be .*, got 0"),
        ({"time_limit": float("inf")}, "--time_limit must be .*, got inf"),
        ({"time_limit": float("nan")}, "--time_limit must be .*, got nan"),
        ({"env": {"2X": "y"}}, "--env=2X=… is not a valid variable name"),
        ({"env": {"": "y"}}, "--env==… is not a valid variable name"),
        ({"env": {"TF_CONFIG": "{}"}}, "--env=TF_CONFIG=… is set by the launcher"),
        ({"env": {"POSTER_JOB_ID": "mine"}}, "--env=POSTER_JOB_ID=… is set by the launcher"),
        ({"arguments": ()}, "--data_dir is missing"),
        ({"arguments": ("--data_dir=d",)}, "--job_dir is missing"),
        ({"arguments": (*ARGUMENTS, "--modle=cnn")}, "after --: .*'modle'"),
        ({"arguments": (*ARGUMENTS, "--model=vgg")}, "after --: --model must be one of cnn, .*got 'vgg'"),
        ({"arguments": (*ARGUMENTS, "--epochs=soon")}, "after --: --epochs must be a whole number, got 'soon'"),
        ({"arguments": (*ARGUMENTS, "--epochs=0")}, "after --: --epochs must be at least 1, got 0"),
        ({"arguments": (*ARGUMENTS, "--workers=2")}, "after --: .*'workers'"),
        ({"arguments": (*ARGUMENTS, "train")}, "after --: 'train' is not a flag"),
        ({"arguments": (*ARGUMENTS, "--", "train")}, "after --: 'train' is not a flag"),
        ({"arguments": (*ARGUMENTS, "--strategy=mirrored"), "workers": 2}, "--strategy=mirrored supports one worker"),
    ],
)
def test_the_error_of_a_wrong_field_names_its_value_and_the_remedy(fields, says):
    with pytest.raises(UserError, match=says):
        job(**fields)


def test_a_job_parses_the_flags_of_its_workers():
    described = job(arguments=(*ARGUMENTS, "--epochs", "3", "--fresh"), workers=2)
    assert (described.training.epochs, described.training.fresh, described.training.grace_period) == (3, True, 7.0)
    job(arguments=(*ARGUMENTS, "--strategy=mirrored"))


def test_variables_are_read_up_to_their_first_equals_sign():
    assert parse_settings("env", ["A=b=c", "B=", "A=d"]) == {"A": "d", "B": ""}
    with pytest.raises(UserError, match="--env=A has no value"):
        parse_settings("env", ["A"])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "f"},
        {"name": "a" * 40},
        {"workers": 100_000},
        {"restarts": 0},
        {"restarts": 100_000},
        {"time_limit": 0.1},
        {"time_limit": 366 * 86400.0},
        {"env": {"_A1": ""}},
        {"env": {"A": "x" * 100_000}},
        {"env": {"A": "é" * 50_000}},
        {"labels": {"a": ""}},
        {"labels": {"example.com/a.b_c-d": "9"}},
        {"labels": {"a" * 63: "b" * 63}},
        {"cpu": "0.001"},
        {"cpu": "1m"},
        {"memory": "0.5Gi"},
        {"namespace": "f"},
        {"namespace": "a" * 63},
        {"image": "registry:5000/film@sha256:0"},
        {"accelerator": "tpu-v4-podslice"},
        {"accelerator": "tpu-v4-podslice", "arguments": (*ARGUMENTS, "--strategy=tpu")},
        {"accelerator": "nvidia-l4", "arguments": (*ARGUMENTS, "--strategy=mirrored")},
        {"accelerator": "nvidia-l4", "workers": 2},
        {"arguments": (*ARGUMENTS, "--strategy=multi_worker"), "workers": 2},
        {"arguments": (*ARGUMENTS, "--run_eagerly")},
        {"arguments": (*ARGUMENTS, "--strategy=tpu")},
        {"network": "projects/1/global/networks/f"},
    ],
)
def test_a_field_may_have_its_extreme_values(fields):
    job(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"workers": 100_001}, "--workers must be at least 1 and at most 100000, got 100001"),
        ({"restarts": 100_001}, "--restarts must be at least 0 and at most 100000, got 100001"),
        ({"time_limit": 366 * 86400.0 + 1}, "--time_limit must be above 0 and at most 31622400 seconds (a year), got 3.16224e+07"),
        ({"time_limit": -1.0}, "--time_limit must be above 0"),
        ({"env": {"A": "x" * 100_001}}, "--env=A=… has more than the 100000 bytes that one argument or variable may have"),
        ({"env": {"A": "é" * 50_001}}, "--env=A=… has more than the 100000 bytes"),
        ({"env": {"A": "x\0y"}}, "--env=A=… is not valid text: write it as UTF-8, without zero bytes"),
        ({"env": {"A": "\udcff"}}, "--env=A=… is not valid text"),
        ({"arguments": (*ARGUMENTS, "--cache=\udcff")}, "after --: '--cache=\\udcff' is not valid text"),
        ({"arguments": (*ARGUMENTS, f"--cache={'x' * 100_000}")}, "xxx has more than the 100000 bytes"),
        ({"cpu": "0m"}, "--cpu must be a number of cores above 0, such as 4 or 500m, got '0m'"),
        ({"memory": "0.0Gi"}, "--memory must be an amount above 0"),
        ({"image": "é"}, "--image=é is empty or contains spaces or non-ASCII characters"),
        ({"project": ""}, "--project= is empty"),
        ({"region": "a b"}, "--region=a b is empty or contains spaces"),
        ({"namespace": "a" * 64}, "--namespace must be up to 63 lower-case letters, digits and '-', got"),
        ({"labels": {"a" * 64: "b"}}, "is not a valid label"),
        ({"labels": {"": "b"}}, "--label==b is not a valid label"),
        ({"accelerator": "tpu-v4-podslice", "workers": 2}, "because all its chips are on one host: use --workers=1"),
        ({"arguments": (*ARGUMENTS, "--run_eagerly"), "workers": 2}, "--run_eagerly supports one worker, not --workers=2"),
        ({"arguments": (*ARGUMENTS, "--strategy=multi_worker")}, "--strategy=multi_worker needs at least two workers"),
        ({"arguments": (*ARGUMENTS, "--strategy=one_device"), "workers": 2}, "--strategy=one_device supports one worker"),
    ],
)
def test_a_value_beyond_the_extreme_is_an_error_in_one_line(fields, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        job(**fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("key", OWN_VARIABLES)
def test_the_launchers_variables_cannot_be_set(key):
    with pytest.raises(UserError, match=f"--env={key}=… is set by the launcher: leave it out"):
        job(env={key: "x"})


@pytest.mark.parametrize("key", OWN_LABELS)
def test_the_launchers_labels_cannot_be_set(key):
    with pytest.raises(UserError, match=f"--label={key}=… is set by the launcher: leave it out"):
        job(labels={key: "x"})


def test_a_job_has_documented_defaults():
    described = job()
    assert (described.name, described.workers, described.restarts, described.time_limit) == ("poster", 1, 3, None)
    assert (described.spot, described.jobset, described.device) == (False, False, None)
    assert (described.env, described.labels) == ({}, {})


def test_an_accelerator_is_parsed():
    assert job(accelerator="nvidia-l4:2").device == Accelerator(type="nvidia-l4", count=2)


def test_only_a_job_that_runs_elsewhere_needs_an_image():
    with pytest.raises(UserError, match="--image is missing: name the container image, such as REGION-docker"):
        job().check_image()
    job(image="i").check_image()


def test_each_launch_has_a_name_of_its_own():
    first, second = (job(name="film").new_name() for _ in range(2))
    assert first != second
    assert re.fullmatch("film-[0-9a-f]{8}", first)


def test_a_file_of_flags_is_replaced_by_its_flags(tmp_path):
    (tmp_path / "flags").write_text("# a comment\n--epochs=3\n--fresh\n")
    assert expand(("--seed=1", f"--flagfile={tmp_path}/flags", "--model=cnn")) == (
        "--seed=1",
        "--epochs=3",
        "--fresh",
        "--model=cnn",
    )
    with pytest.raises(UserError, match=r"^after --: .*none"):
        expand((f"--flagfile={tmp_path}/none",))


def test_a_flag_is_given_if_the_arguments_set_it_in_any_form():
    for arguments in (("--rejoin=2",), ("--rejoin", "2"), ("-rejoin=2",)):
        assert is_given("rejoin", (*ARGUMENTS, *arguments))
    assert not is_given("rejoin", ARGUMENTS)
    assert not is_given("rejoin", (*ARGUMENTS, "--cache=--rejoin=2"))


@pytest.mark.parametrize(
    "kind", [Accelerator, Job, JobRecord, JobState, Location, Machine, Outcome, Pod, Spec, SubmittedJob, Worker, WorkerState]
)
def test_a_description_cannot_be_changed(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        object.__new__(kind).anything = 1


@pytest.mark.parametrize("kind", [Accelerator, Job, JobRecord, Location, Outcome, Pod, Spec, SubmittedJob, Worker, WorkerState])
def test_the_fields_of_a_description_are_named_where_it_is_made(kind):
    assert {each.kind for each in inspect.signature(kind).parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ["MY_TOKEN", "secret", "DB_PASSWORD", "PWD", "API_KEY", "DATABASE_URL", "DSN", "authority"])
def test_the_name_of_a_variable_shows_that_it_may_be_secret(name):
    assert SECRET.search(name)
    assert not SECRET.search("COLOUR")
