"""The spec of a job on Vertex AI: golden files, and descriptions that are rejected."""

import json
import re

import pytest
from google.cloud.aiplatform_v1.types import CustomJob

from launch import job_file
from launch.job import Job
from launch.vertex import spec as vertex
from tests.fakes.vertex import server
from tests.fakes.vertex.expander import expand
from tests.support import golden_specs
from trainer.cluster import discovery
from trainer.errors import UserError

PATHS = ("--data_dir=gs://films/d", "--job_dir=gs://films/j")
CASES = list(golden_specs.VERTEX)
BOARD = "projects/films/locations/europe-west4/tensorboards/12"
ACCOUNT = "trainer@films.iam.gserviceaccount.com"


def specify(*, name="film-1", **fields):
    return vertex.specify(Job(**({"arguments": PATHS, "image": "i", "name": "film"} | fields)), name=name)


def spec_of(**fields):
    return specify(**fields)["jobSpec"]


def golden(case):
    return golden_specs.path(case).read_text()


@pytest.mark.parametrize("case", CASES)
def test_a_command_prints_its_golden_spec(case):
    assert golden_specs.render(case) == golden(case), "if the change is intended: python -m tests.support.golden_specs"


def test_every_golden_spec_has_a_command():
    assert {path.stem for path in golden_specs.FOLDER.glob("vertex-*")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_api_accepts_every_field_of_a_spec(case):
    job = CustomJob.from_json(golden(case), ignore_unknown_fields=False)
    assert server.problems(job) == []
    # Nothing was lost in the conversion; the API writes 64-bit numbers as strings.
    written = json.loads(CustomJob.to_json(job, use_integers_for_enums=False, including_default_value_fields=False))
    for pool in written["jobSpec"]["workerPoolSpecs"]:
        pool["replicaCount"] = int(pool["replicaCount"])
    assert written == json.loads(golden(case))


def test_the_check_is_strict():
    job = json.loads(golden("vertex-one"))
    for key, value in (("jobSpec", {**job["jobSpec"], "restarts": 3}), ("labls", {}), ("displayName", 3)):
        with pytest.raises(Exception, match=r"restarts|labls|displayName"):
            CustomJob.from_json(json.dumps(job | {key: value}), ignore_unknown_fields=False)


def test_the_first_pool_is_the_chief_and_the_second_the_others():
    assert [pool["replicaCount"] for pool in spec_of(workers=1)["workerPoolSpecs"]] == [1]
    first, second = spec_of(workers=5)["workerPoolSpecs"]
    assert (first.pop("replicaCount"), second.pop("replicaCount")) == (1, 4)
    assert first == second


def test_restarts_and_time_limit_become_the_scheduling():
    assert spec_of()["scheduling"] == {"timeout": "604800s"}
    assert spec_of(workers=2)["scheduling"] == {"timeout": "604800s", "restartJobOnWorkerRestart": True}
    assert spec_of(workers=2, restarts=0)["scheduling"] == {"timeout": "604800s", "disableRetries": True}
    assert spec_of(time_limit=0.5, spot=True)["scheduling"] == {"timeout": "1s", "strategy": "SPOT"}


def test_the_guard_rejoins_unless_the_user_says_otherwise():
    (pool,) = spec_of()["workerPoolSpecs"]
    container = pool["containerSpec"]
    assert container["command"] == ["python", "-m", "trainer.guard"]
    assert container["args"] == ["--rejoin=30", *PATHS]
    (pool,) = spec_of(arguments=(*PATHS, "--rejoin", "2"))["workerPoolSpecs"]
    assert pool["containerSpec"]["args"] == [*PATHS, "--rejoin", "2"]


@pytest.mark.parametrize(
    ("job_dir", "output"),
    [
        ("gs://films/j", "gs://films/j"),
        ("gs://films/a/b/", "gs://films/a/b"),
        ("/gcs/films/j/", "gs://films/j"),
        ("gs://films", "gs://films"),
    ],
)
def test_the_output_directory_is_the_jobs_own(job_dir, output):
    spec = spec_of(arguments=("--data_dir=/gcs/films/d", f"--job_dir={job_dir}"))
    assert spec["baseOutputDirectory"] == {"outputUriPrefix": output}


@pytest.mark.parametrize(
    "text",
    [
        "$(POSTER_JOB_ID)",
        "$$(HOME)",
        "$$$(HOME)",
        "$",
        "$$",
        "a$b",
        "$(",
        "$()",
        "\\$(HOME)",
        "'x' \"y\"",
        "two\nlines",
        "é 🎬",
        "$5 $$6",
    ],
)
def test_arguments_and_variables_reach_the_worker_unchanged(text):
    arguments = (*PATHS, f"--cache={text}")
    job = CustomJob.from_json(json.dumps(specify(arguments=arguments, env={"TEXT": text})))
    container = job.job_spec.worker_pool_specs[0].container_spec
    variables: dict[str, str] = {"HOME": "/root"}
    for each in container.env:
        variables[each.name] = expand(each.value, variables)
    assert variables["TEXT"] == text
    assert [expand(each, variables) for each in container.args][-3:] == list(arguments)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": None}, "--image is missing: name"),
        (
            {"arguments": ("--data_dir=data/", "--job_dir=gs://films/j")},
            "--data_dir=data/ is not in a bucket, but the workers run on other machines",
        ),
        ({"arguments": ("--data_dir=gs://films/d", "--job_dir=/jobs/j")}, "--job_dir=/jobs/j is not in a bucket"),
        ({"arguments": ("--data_dir=gs://films/d", "--job_dir=gs:///j")}, "--job_dir=gs:///j does not name a valid bucket"),
        ({"arguments": ("--data_dir=/gcs/", "--job_dir=gs://films/j")}, "--data_dir=/gcs/ does not name a valid bucket"),
        ({"service_account": "trainer"}, "--service_account=trainer is not a Google Cloud service account: use its e-mail address"),
        ({"service_account": "me@example.com"}, "--service_account=me@example.com is not a Google Cloud service account"),
        ({"tensorboard": BOARD}, "needs a --service_account: name one that has the role"),
        (
            {"tensorboard": BOARD, "service_account": ACCOUNT, "region": "us-central1"},
            "is in europe-west4, but the job is in --region=us-central1: use the same region",
        ),
        ({"tensorboard": "12"}, "--tensorboard must be projects/PROJECT/locations/REGION/tensorboards/NUMBER, got '12'"),
        (
            {"network": "projects/films/global/networks/vpc"},
            "must be projects/NUMBER/global/networks/NAME, with",
        ),
        ({"labels": {"Team": "films"}}, "--label=Team=films is not a valid label on Vertex AI"),
        ({"labels": {"team": "Films"}}, "--label=team=Films is not a valid label on Vertex AI"),
        ({"labels": {"kueue.x-k8s.io/queue-name": "q"}}, "is not a valid label on Vertex AI"),
        ({"labels": {"launcher": "me"}}, "--label=launcher=… is set by the launcher: leave it out"),
        ({"labels": {f"l{number}": "" for number in range(64)}}, "--label must set at most 63 labels on Vertex AI, got 64"),
        ({"env": {"AIP_MODEL_DIR": "x"}}, "--env=AIP_MODEL_DIR=… is set by Vertex AI: leave it out"),
        ({"env": {"CLUSTER_SPEC": "x"}}, "--env=CLUSTER_SPEC=… is set by Vertex AI: leave it out"),
        ({"env": {f"V{number}": "" for number in range(100)}}, "--env must set at most 99 variables on Vertex AI, got 100"),
        ({"accelerator": "tpu-v4-podslice"}, "--accelerator=tpu-v4-podslice is not available on Vertex AI: use one of"),
        ({"accelerator": "nvidia-tesla-p100"}, "--accelerator=nvidia-tesla-p100 is not available on Vertex AI"),
        (
            {"accelerator": "nvidia-l4:3"},
            "--accelerator=nvidia-l4:3 is not available on Vertex AI, whose machines have 1, 2, 4, 8: use nvidia-l4:4",
        ),
        (
            {"accelerator": "nvidia-h200-141gb"},
            "--accelerator=nvidia-h200-141gb:1 is not available on Vertex AI, whose machines have 8: use nvidia-h200-141gb:8",
        ),
        ({"cpu": "97"}, "--cpu=97 is more than any Vertex AI machine has: use at most 96 cores and 624Gi, as n1-highmem-96 has"),
        ({"cpu": "90", "memory": "630Gi"}, "--cpu=90 --memory=630Gi is more than any Vertex AI machine"),
        (
            {"accelerator": "nvidia-tesla-t4", "cpu": "17"},
            "with nvidia-tesla-t4:1 has: use at most 16 cores and 104Gi, as n1-highmem-16 has",
        ),
    ],
)
def test_the_error_of_a_wrong_field_names_its_value_and_the_remedy(fields, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        specify(**fields)
    assert "\n" not in str(caught.value)


def test_labels_that_vertex_ai_allows_are_accepted():
    assert specify(labels={"team": "", "cost_centre-2": "9_a"})["labels"] == {
        "launcher": "poster-trainer",
        "team": "",
        "cost_centre-2": "9_a",
    }


def test_a_job_may_have_as_many_labels_and_variables_as_vertex_ai_takes():
    made = specify(labels={f"l{number}": "" for number in range(63)}, env={f"V{number}": "" for number in range(99)})
    assert len(made["labels"]) == 64
    assert len(made["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]) == 100


def test_the_tensorboard_of_a_job_without_a_region_is_not_compared():
    assert spec_of(tensorboard=BOARD, service_account=ACCOUNT)["tensorboard"] == BOARD
    assert spec_of(tensorboard=BOARD, service_account=ACCOUNT, region="europe-west4")["serviceAccount"] == ACCOUNT


def test_warnings_about_a_job():
    notes = list(vertex.notes(Job(arguments=PATHS, image="i", restarts=5, env={"HF_TOKEN": "s3", "COLOUR": "red"})))
    assert [note.split("=")[0] for note in notes] == ["--env", "--restarts"]
    assert not any("s3" in note or "COLOUR" in note for note in notes)
    for restarts in (0, 3):
        assert not list(vertex.notes(Job(arguments=PATHS, image="i", restarts=restarts)))


def test_a_job_file_may_have_the_fields_of_vertex_ai(tmp_path):
    (tmp_path / "job.yaml").write_text(f"image: i\ntensorboard: {BOARD}\nnetwork: projects/1/global/networks/vpc\n")
    job = Job(arguments=PATHS, **job_file.read(str(tmp_path / "job.yaml")))
    assert (job.tensorboard, job.network) == (BOARD, "projects/1/global/networks/vpc")


@pytest.mark.parametrize(
    "environment",
    [
        {"CLUSTER_SPEC": '{"cluster": {"workerpool0": ["h:2222"]}, "task": {"type": "workerpool0", "index": 0}}'},
        {"TF_CONFIG": '{"cluster": {"chief": ["h:2222"]}, "task": {"type": "chief", "index": 0, "trial": ""}}'},
    ],
)
def test_one_worker_trains_alone_in_the_cluster_that_vertex_ai_describes(environment):
    found = discovery.discover({"CLOUD_ML_JOB_ID": "1", **environment}, hostname="h")
    assert (found.workers, found.is_chief) == (1, True)
