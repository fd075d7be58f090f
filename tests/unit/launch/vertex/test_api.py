"""The requests to Vertex AI, and what its errors become."""

import datetime
import logging
import sys
import types
from typing import Any

import google.auth.exceptions
import pytest
from google.api_core import exceptions
from google.cloud.aiplatform_v1.services import job_service
from google.cloud.aiplatform_v1.types import CustomJob, JobState

from launch.vertex import api as vertex
from launch.vertex.api import Api
from trainer.errors import LostService, UserError

PARENT = "projects/films/locations/europe-west4"
OURS = {"launcher": "poster-trainer"}


class Credentials:
    """The user's credentials."""

    def __init__(self):
        self.error: Exception | None = None
        self.default: str | None = "films"
        self.refreshed = 0

    def refresh(self, request):
        assert isinstance(request, google.auth.transport.requests.Request)
        self.refreshed += 1
        if self.error:
            raise self.error


@pytest.fixture
def credentials(monkeypatch):
    credentials = Credentials()

    def default(*, scopes):
        assert scopes == ("https://www.googleapis.com/auth/cloud-platform",)
        return credentials, credentials.default

    monkeypatch.setattr(vertex.google.auth, "default", default)
    return credentials


class Client:
    """Stands for the official client: keeps the requests, and gives the same answer to each."""

    def __init__(self, answer=None):
        self.requests = []
        self.answer = answer

    def __getattr__(self, name):
        def request(**options):
            self.requests.append((name, options))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return request


@pytest.fixture
def api(credentials):
    api: Any = Api(None, "europe-west4")
    api.client = api.__dict__["_client"] = Client()
    return api


def custom_job(name="film-1", number=7, labels=OURS, **fields):
    machine = {"machine_spec": {"machine_type": "e2-standard-4"}}
    pools = [machine | {"replica_count": 1}, {"machine_spec": {"machine_type": "other"}, "replica_count": 3}]
    spec = {"worker_pool_specs": pools, "scheduling": {"timeout": "60s"}}
    created = datetime.datetime(2026, 1, number, tzinfo=datetime.UTC)
    described = {"display_name": name, "name": f"{PARENT}/customJobs/{number}", "labels": labels, "create_time": created}
    return CustomJob(described | {"job_spec": spec, "state": JobState.JOB_STATE_RUNNING} | fields)


def test_the_project_is_that_of_the_flag_or_of_the_credentials(credentials):
    api = Api(None, "europe-west4")
    assert (api.project, api.region, api.credentials) == ("films", "europe-west4", credentials)
    assert credentials.refreshed == 1
    assert Api("other", "us-central1").project == "other"
    credentials.default = None
    assert Api("other", "us-central1").project == "other"
    with pytest.raises(UserError, match="--project is missing, and the credentials name no project"):
        Api(None, "us-central1")


@pytest.mark.parametrize("region", ["northamerica-northeast1", "me-central2", "us-central10"])
def test_a_region_has_words_and_a_number(credentials, region):
    assert Api(None, region).region == region


@pytest.mark.parametrize("region", ["", "mars", "europe", "europe-west", "Europe-west4", "evil.example.com/a-b1", "europe-west4-a"])
def test_a_region_becomes_part_of_a_host_name_only_if_it_is_one(credentials, region):
    with pytest.raises(UserError, match=f"--region must be a region of Vertex AI, such as europe-west4, got {region!r}"):
        Api(None, region)
    with pytest.raises(UserError, match="--region is missing: give a region of Vertex AI, such as europe-west4"):
        Api(None, None)
    assert credentials.refreshed == 0


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            google.auth.exceptions.DefaultCredentialsError("none found.\nSee there."),
            UserError,
            "no credentials for Google Cloud (none found): run gcloud auth application-default login",
        ),
        (
            google.auth.exceptions.TransportError("no route"),
            LostService,
            "Google's token server does not answer (no route): try again",
        ),
        (
            google.auth.exceptions.RefreshError("busy", retryable=True),
            LostService,
            "Google's token server issues no token (busy): try again",
        ),
        (
            google.auth.exceptions.RefreshError("expired", retryable=False),
            UserError,
            "the credentials for Google Cloud are no longer valid (expired): run gcloud auth application-default login",
        ),
        (
            google.auth.exceptions.GoogleAuthError("odd"),
            UserError,
            "the credentials for Google Cloud are no longer valid (odd): run gcloud auth application-default login",
        ),
    ],
)
def test_an_error_of_the_credentials_says_what_to_do(credentials, error, kind, says):
    credentials.error = error
    with pytest.raises(kind) as caught:
        Api(None, "europe-west4")
    assert str(caught.value) == says


def test_the_libraries_log_no_retries(credentials):
    for name in ("google.auth", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    Api(None, "europe-west4")
    for name in ("google.auth", "urllib3"):
        assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_the_client_connects_to_the_region(credentials, monkeypatch):
    made = []

    def client(**options):
        made.append(options)
        return Client([])

    monkeypatch.setattr(job_service, "JobServiceClient", client)
    api = Api(None, "europe-west4")
    assert made == []  # Its import takes seconds.
    api.jobs()
    api.jobs()
    assert made == [
        {"credentials": credentials, "client_options": {"api_endpoint": "europe-west4-aiplatform.googleapis.com"}},
    ]


def test_a_missing_extra_is_named(credentials, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1.services.job_service", None)
    with pytest.raises(UserError, match=r"--target=vertex needs google\..*, which is not installed: pip install 'poster-trainer"):
        Api(None, "europe-west4").jobs()


def test_a_submitted_job_is_described(api):
    ended = {
        "state": JobState.JOB_STATE_FAILED,
        "error": {"code": 3, "message": "too bad.\nReally."},
        "start_time": datetime.datetime(2026, 1, 8, tzinfo=datetime.UTC),
        "end_time": datetime.datetime(2026, 1, 9, tzinfo=datetime.UTC),
    }
    api.client.answer = custom_job(**ended)
    found = api.submit({"displayName": "film-1", "labels": OURS})
    ((method, options),) = api.client.requests
    assert (method, options["parent"]) == ("create_custom_job", PARENT)
    assert (options["custom_job"].display_name, options["custom_job"].labels) == ("film-1", OURS)
    assert (found.name, found.id, found.resource) == ("film-1", "7", f"{PARENT}/customJobs/7")
    assert (found.state, found.reason, found.status) == ("FAILED", "too bad. Really.", 3)
    assert (found.workers, found.machine, found.timeout) == (4, "e2-standard-4", 60.0)
    assert [moment.day for moment in (found.created, found.started, found.ended)] == [7, 8, 9]


def test_a_job_is_described_whatever_it_leaves_out(api):
    api.client.answer = custom_job(job_spec={}, state=JobState.JOB_STATE_UNSPECIFIED)
    found = api.submit({"displayName": "film-1"})
    assert (found.workers, found.machine, found.timeout) == (0, "", 0.0)
    assert (found.state, found.started, found.ended, found.reason) == ("UNSPECIFIED", None, None, "")


@pytest.mark.filterwarnings("ignore:Unrecognized JobState enum value")
def test_a_state_that_this_client_does_not_know_is_shown_by_its_number(api):
    api.client.answer = custom_job(state=99)
    assert api.submit({"displayName": "film-1"}).state == "99"


def test_a_job_is_found_by_its_number(api):
    api.client.answer = custom_job()
    assert api.get("7").name == "film-1"
    assert api.client.requests[0][1]["name"] == f"{PARENT}/customJobs/7"
    for answer in (custom_job(labels={}), exceptions.NotFound("no")):
        api.client.answer = answer
        with pytest.raises(UserError, match="job 7 does not exist in europe-west4 of the project films: choose one of python -m"):
            api.get("7")


def test_a_job_is_found_by_its_name(api):
    api.client.answer = [custom_job(number=7), custom_job(number=9)]
    assert api.get("film-1").id == "9"
    assert api.client.requests[0][1]["request"]["filter"] == 'labels.launcher=poster-trainer AND display_name="film-1"'
    api.client.answer = []
    with pytest.raises(UserError, match="--target=vertex --project=films --region=europe-west4"):
        api.get("film-1")


def test_a_name_that_no_job_can_have_is_not_asked_for(api):
    with pytest.raises(UserError, match="does not exist"):
        api.get('x" OR display_name="y')
    assert api.client.requests == []


def test_jobs_are_listed_with_the_newest_first(api):
    api.client.answer = [custom_job(number=number) for number in (3, 9, 5)]
    assert [job.id for job in api.jobs()] == ["9", "5", "3"]
    request = api.client.requests[0][1]["request"]
    assert (request["parent"], request["filter"]) == (PARENT, "labels.launcher=poster-trainer")
    assert request["page_size"] >= 100


def test_every_request_has_a_time_limit_and_names_its_job(api):
    api.client.answer = custom_job()
    submitted = api.submit({"displayName": "film-1"})
    api.refresh(submitted)
    api.cancel(submitted)
    api.get("7")
    api.client.answer = []
    api.jobs()
    methods = [method for method, _ in api.client.requests]
    assert methods == ["create_custom_job", "get_custom_job", "cancel_custom_job", "get_custom_job", "list_custom_jobs"]
    assert [options.get("name") for _, options in api.client.requests[1:4]] == [submitted.resource] * 3
    assert all(1 < options["timeout"] <= 60 for _, options in api.client.requests)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            exceptions.Forbidden("Permission denied."),
            UserError,
            "cannot list jobs: you lack the permission in the project films (Permission denied): "
            "ask for the role roles/aiplatform.user",
        ),
        (
            exceptions.Forbidden("Vertex AI API has not been used in project 1"),
            UserError,
            "cannot list jobs: you lack the permission in the project films (Vertex AI API has not been used in project 1): "
            "run gcloud services enable aiplatform.googleapis.com --project=films",
        ),
        (
            exceptions.Forbidden("it is disabled"),
            UserError,
            "cannot list jobs: you lack the permission in the project films (it is disabled): "
            "run gcloud services enable aiplatform.googleapis.com --project=films",
        ),
        (
            exceptions.Unauthorized("who?"),
            UserError,
            "cannot list jobs: Vertex AI rejects your credentials (who?): run gcloud auth application-default login",
        ),
        (
            exceptions.ServiceUnavailable("away"),
            LostService,
            "cannot list jobs: europe-west4-aiplatform.googleapis.com does not answer (away): try again, or check "
            "--region=europe-west4",
        ),
        (exceptions.TooManyRequests("slowly"), LostService, "cannot list jobs: Vertex AI answered 429 (slowly): try again"),
        (exceptions.InternalServerError("oops\nmore"), LostService, "cannot list jobs: Vertex AI answered 500 (oops): try again"),
        (exceptions.GatewayTimeout("late"), LostService, "cannot list jobs: Vertex AI answered 504 (late): try again"),
        (
            exceptions.NotFound("no network"),
            UserError,
            "cannot list jobs (no network): check the project films, and the resources that the job names",
        ),
        (
            exceptions.BadRequest("bad image"),
            UserError,
            "cannot list jobs: Vertex AI rejected it (bad image): correct what it names",
        ),
        (exceptions.BadRequest(""), UserError, "cannot list jobs: Vertex AI rejected it (BadRequest): correct what it names"),
    ],
)
def test_an_error_says_what_to_do(api, error, kind, says):
    api.client.answer = error
    if not error.message:
        says = says.replace("(BadRequest)", f"({vertex._first_line(error)})")
    with pytest.raises(kind) as caught:
        api.jobs()
    assert str(caught.value) == says


def test_an_exhausted_quota_is_no_outage(api):
    api.client.answer = exceptions.ResourceExhausted("Quota custom_model_training_l4 is exceeded.")
    with pytest.raises(UserError) as caught:
        api.submit({"displayName": "film-1"})
    assert str(caught.value) == (
        "cannot create job film-1 (Quota custom_model_training_l4 is exceeded): request a larger Vertex AI quota in europe-west4, "
        "or use fewer or smaller machines"
    )


def test_each_request_is_named_in_its_error(api):
    api.client.answer = custom_job()
    submitted = api.submit({"displayName": "film-1"})
    api.client.answer = exceptions.BadRequest("bad")
    requests = {
        "create job film-2": lambda: api.submit({"displayName": "film-2"}),
        "get job 7": lambda: api.get("7"),
        "get job film-1": lambda: api.refresh(submitted),
        "cancel job film-1": lambda: api.cancel(submitted),
    }
    for what, request in requests.items():
        with pytest.raises(UserError, match=f"cannot {what}: Vertex AI rejected it"):
            request()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one.\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError(""), "ValueError"),
        (types.SimpleNamespace(message="its message", args=("other",)), "its message"),
        (ValueError("  spaces  "), "spaces"),
    ],
)
def test_the_first_line_of_an_error_is_told(error, line):
    assert vertex._first_line(error) == line
