"""Credentials for Google Cloud: what is waited for, for how long, and what the user is told."""

import itertools
import logging
from types import SimpleNamespace

import google.auth
import pytest
from google.auth import exceptions
from google.auth.compute_engine import _metadata
from google.cloud import storage

from tests.support import clock
from trainer.errors import LostService, UserError
from trainer.storage import credentials

NONE = exceptions.DefaultCredentialsError("none were found")
REFUSED = exceptions.RefreshError("the account is disabled")
BUSY = exceptions.RefreshError("try later", retryable=True)
UNREACHABLE = exceptions.TransportError("no connection")


@pytest.fixture(autouse=True)
def _nothing_is_kept():
    credentials.load.cache_clear()
    yield
    credentials.load.cache_clear()


@pytest.fixture
def waits(monkeypatch):
    return clock.for_retries(monkeypatch)


@pytest.fixture(params=[False, True], ids=["elsewhere", "on Google Cloud"])
def on_google_cloud(request, monkeypatch):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: request.param)
    return request.param


def google_auth(monkeypatch, *outcomes):
    """Lets google-auth's tries end with these errors in turn, None for success; the last one stays. Returns the credentials."""
    tries = itertools.count()
    found = SimpleNamespace(refreshed=0, service_account_email="trainer@project")
    found.refresh = lambda request: setattr(found, "refreshed", found.refreshed + 1)

    def default(scopes):
        assert scopes == storage.Client.SCOPE
        outcome = outcomes[min(next(tries), len(outcomes) - 1)]
        if outcome is not None:
            raise outcome
        return found, "project"

    monkeypatch.setattr(google.auth, "default", default)
    return found


def test_credentials_come_with_a_token_and_are_looked_for_once(monkeypatch, waits):
    found = google_auth(monkeypatch, None)
    assert credentials.load() is credentials.load() is found
    assert found.refreshed == 1
    assert credentials.identity() == "trainer@project"
    assert waits.pauses == []


def test_an_account_without_a_name_is_described(monkeypatch, waits):
    found = google_auth(monkeypatch, None)
    found.service_account_email = None
    assert credentials.identity() == "the account of the application default credentials"
    del found.service_account_email
    assert credentials.identity() == "the account of the application default credentials"


@pytest.mark.parametrize("error", [NONE, REFUSED, BUSY, UNREACHABLE])
def test_a_metadata_server_that_is_not_ready_is_waited_for(monkeypatch, waits, caplog, error):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: True)
    found = google_auth(monkeypatch, error, error, error, error, error, None)
    with caplog.at_level(logging.WARNING):
        assert credentials.load() is found
    assert waits.pauses == [1, 2, 4, 8, 8]
    assert caplog.messages == ["no credentials for Cloud Storage yet: trying for 60 s"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NONE, r"^no credentials for Cloud Storage \(none were found\): on your own machine run gcloud auth .* service account$"),
        (REFUSED, r"^credentials for Cloud Storage were refused \(the account is disabled\): on your own machine run gcloud"),
    ],
)
def test_elsewhere_missing_or_refused_credentials_are_the_users_at_once(monkeypatch, waits, error, said):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: False)
    google_auth(monkeypatch, error)
    with pytest.raises(UserError, match=said):
        credentials.load()
    assert waits.pauses == []


def test_credentials_that_are_missing_for_a_minute_are_the_users(monkeypatch, waits):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: True)
    google_auth(monkeypatch, NONE)
    with pytest.raises(UserError, match=r"^no credentials for Cloud Storage \(none were found\): on your own machine"):
        credentials.load()
    assert 50 < sum(waits.pauses) <= 60


@pytest.mark.parametrize("error", [BUSY, UNREACHABLE])
def test_a_service_that_does_not_answer_for_a_minute_is_lost(monkeypatch, waits, on_google_cloud, error):
    google_auth(monkeypatch, error)
    with pytest.raises(LostService, match=rf"^no credentials for Cloud Storage for 60 s \({error.args[0]}\): run the same command"):
        credentials.load()
    assert 50 < sum(waits.pauses) <= 60


def test_a_metadata_server_that_refuses_for_a_minute_is_lost(monkeypatch, waits):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: True)
    google_auth(monkeypatch, REFUSED)
    with pytest.raises(LostService, match=r"^no credentials for Cloud Storage for 60 s \(the account is disabled\)"):
        credentials.load()


def test_a_program_error_is_no_missing_credential(monkeypatch, waits):
    google_auth(monkeypatch, KeyError("bug"))
    with pytest.raises(KeyError):
        credentials.load()


def test_only_what_may_pass_is_tried_again(on_google_cloud):
    assert credentials.may_succeed_later(REFUSED) is on_google_cloud
    assert credentials.may_succeed_later(BUSY)
    assert credentials.may_succeed_later(UNREACHABLE)
    assert not credentials.may_succeed_later(NONE)
    assert not credentials.may_succeed_later(ValueError("bug"))


@pytest.mark.parametrize(
    ("environment", "is_detected", "expected"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"GCE_METADATA_HOST": "127.0.0.1"}, False, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, True),
        ({"CLOUD_ML_PROJECT_ID": "project"}, False, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NO_GCE_CHECK": "true"}, True, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NO_GCE_CHECK": "false"}, False, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "GOOGLE_APPLICATION_CREDENTIALS": "key.json"}, True, False),
    ],
)
def test_where_there_is_a_metadata_server(monkeypatch, environment, is_detected, expected):
    names = (
        "GCE_METADATA_HOST",
        "KUBERNETES_SERVICE_HOST",
        "CLOUD_ML_PROJECT_ID",
        "NO_GCE_CHECK",
        "GOOGLE_APPLICATION_CREDENTIALS",
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_metadata, "detect_gce_residency_linux", lambda: is_detected)
    assert credentials._has_metadata_server() is expected
