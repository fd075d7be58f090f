"""Errors of Cloud Storage: what is tried again, and what the user is told. TensorFlow's messages are those that
`tests.fakes.storage` provoked."""

import re

import google.auth.exceptions
import pytest
import requests
import tensorflow as tf
import urllib3
from google.api_core import exceptions
from google.auth.compute_engine import _metadata
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from tests.support import clock
from trainer.errors import LostService, UserError
from trainer.storage import credentials, failures, patience

URI = "gs://posters/films/x"

AFTER_ALL = "All 10 retry attempts failed. The last failure: "
FAILED = "Error executing an HTTP request: "


@pytest.fixture(autouse=True)
def _somebody(monkeypatch):
    monkeypatch.setattr(credentials, "identity", lambda: "somebody@project")


@pytest.mark.parametrize(
    ("kind", "message", "end", "said"),
    [
        (
            tf.errors.PermissionDeniedError,
            f"{FAILED}HTTP response code 403 with body '…'\n\t when reading gs://posters/data/train-00000",
            UserError,
            r"^gs://posters/data/train-00000: somebody@project lacks storage.objects.get on gs://posters: grant it",
        ),
        (
            tf.errors.PermissionDeniedError,
            f"{FAILED}HTTP response code 403 with body 'somebody does not have storage.buckets.get access to …'\n"
            "\t when reading metadata of gs://posters/logs/",
            UserError,
            r"lacks storage.buckets.get on gs://posters",
        ),
        (
            tf.errors.PermissionDeniedError,
            f"{FAILED}HTTP response code 403 with body ''\n\t when initiating an upload to gs://posters/jobs/backup/ckpt-6.index",
            UserError,
            r"ckpt-6.index: somebody@project lacks storage.objects.create",
        ),
        (
            tf.errors.PermissionDeniedError,
            f"{FAILED}HTTP response code 401 with body ''\n\t when deleting gs://posters/jobs/x",
            LostService,
            r"^gs://posters/jobs/x: Cloud Storage refuses an expired token: run the same command again, which renews it",
        ),
        (
            tf.errors.AbortedError,
            f"{AFTER_ALL}{FAILED}HTTP response code 503 with body '…' when renaming gs://posters/jobs/a to gs://posters/jobs/b",
            LostService,
            r"^gs://posters/jobs/a: Cloud Storage does not answer .*503.*: run the same command again",
        ),
        (
            tf.errors.AbortedError,
            f"{AFTER_ALL}{FAILED}libcurl code 18 meaning 'Transferred a partial file'\n\t when reading gs://posters/jobs/a",
            LostService,
            r"^gs://posters/jobs/a: Cloud Storage does not answer \(libcurl code 18 meaning 'Transferred a partial file'\): run",
        ),
        (
            tf.errors.AbortedError,
            f"{AFTER_ALL}something else when reading 'gs://posters/jobs/a'.",
            LostService,
            r"^gs://posters/jobs/a: Cloud Storage does not answer \(all tries failed\): run the same command again$",
        ),
        (
            tf.errors.NotFoundError,
            f"{FAILED}HTTP response code 404 with body 'The specified bucket does not exist.' when reading gs://posters/x",
            UserError,
            r"^gs://posters/x: there is no bucket gs://posters: correct the name, or create it with gcloud storage buckets create$",
        ),
        *(
            (
                tf.errors.PermissionDeniedError,
                f"{FAILED}HTTP response code 403 with body ''\n\t {words} gs://posters/x: denied",
                UserError,
                rf"^gs://posters/x: somebody@project lacks {permission} on gs://posters: grant it, for example with the roles",
            )
            for words, permission in (
                ("when deleting", "storage.objects.delete"),
                ("when renaming", "storage.objects.create"),
                ("when composing to", "storage.objects.create"),
                ("when uploading", "storage.objects.create"),
                ("when doing", "a permission of Cloud Storage"),
            )
        ),
    ],
)
def test_an_error_that_is_about_cloud_storage_is_named(kind, message, end, said):
    told = failures.of_tensorflow(kind(None, None, message))
    assert type(told) is end
    assert re.search(said, str(told)), told


def test_a_missing_object_is_a_missing_file():
    error = tf.errors.NotFoundError(None, None, f"{FAILED}HTTP response code 404 with body ''\n\t when reading gs://posters/x")
    told = failures.of_tensorflow(error)
    assert isinstance(told, FileNotFoundError)
    assert told.filename == "gs://posters/x"


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "Connection reset by peer"),
        tf.errors.UnavailableError(None, None, "HTTP response code 503 of another service"),
        tf.errors.NotFoundError(None, None, "gs://posters/x is not in the cache"),
        tf.errors.NotFoundError(None, None, "/data/train.tfrecord; No such file or directory"),
        ValueError("HTTP response code 503 gs://posters/x"),
    ],
)
def test_other_errors_are_left_to_others(error):
    assert failures.of_tensorflow(error) is None


def test_the_body_of_an_answer_is_not_repeated():
    message = f"{AFTER_ALL}{FAILED}HTTP response code 503 with body 'secret' when reading gs://posters/x"
    assert "secret" not in str(failures.of_tensorflow(tf.errors.AbortedError(None, None, message)))


@pytest.mark.parametrize("is_on_google_cloud", [True, False])
def test_a_metadata_server_may_answer_later(monkeypatch, is_on_google_cloud):
    """The metadata server marks no failure as transient."""
    monkeypatch.setattr(_metadata, "detect_gce_residency_linux", lambda: False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("NO_GCE_CHECK", "false" if is_on_google_cloud else "true")
    refused = google.auth.exceptions.RefreshError("the metadata server answers 503")
    assert failures.is_transient(refused) is credentials.may_succeed_later(refused) is is_on_google_cloud
    assert failures.is_transient(google.auth.exceptions.TransportError("no connection"))


def answer(status):
    response = requests.Response()
    response.status_code = status
    return response


BROKEN = (
    ConnectionResetError("reset"),
    requests.ConnectionError("refused"),
    requests.ReadTimeout("late"),
    requests.exceptions.ChunkedEncodingError("cut off"),
    urllib3.exceptions.ProtocolError("cut off"),
)


@pytest.mark.parametrize(("status", "is_busy"), [(408, True), (429, True), (500, True), (503, True), (404, False), (499, False)])
def test_a_busy_server_is_asked_again(status, is_busy):
    assert failures.is_transient(exceptions.from_http_status(status, "")) is is_busy
    # Uploads and downloads come in this form until their tries are over.
    assert failures.is_transient(InvalidResponse(answer(status), "failed")) is is_busy


@pytest.mark.parametrize("error", BROKEN)
def test_a_broken_connection_is_tried_again_and_then_lost(error):
    assert failures.is_transient(error)
    with (
        pytest.raises(
            LostService, match=rf"^{URI}: Cloud Storage does not answer \({type(error).__name__}\): run the same command"
        ),
        failures.explained(URI, "storage.objects.get"),
    ):
        raise error


@pytest.mark.parametrize("error", [ValueError("bug"), FileNotFoundError(2, "no file"), exceptions.GoogleAPICallError("no status")])
def test_an_error_that_a_second_try_would_meet_again_is_not_transient(error):
    assert not failures.is_transient(error)


def test_an_error_of_the_program_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), failures.explained(URI, "storage.objects.get"):
        raise ZeroDivisionError


REFUSED = google.auth.exceptions.RefreshError("the account is disabled")


@pytest.mark.parametrize(
    ("error", "permission", "end", "said"),
    [
        (exceptions.PreconditionFailed(""), "storage.objects.create", failures.Changed, rf"^{URI}$"),
        (exceptions.NotFound("No such object"), "storage.objects.get", FileNotFoundError, rf"no such object: '{URI}'"),
        *(
            (
                exceptions.NotFound(""),
                permission,
                UserError,
                rf"^{URI}: there is no bucket gs://posters: correct the name, or create",
            )
            for permission in ("storage.buckets.get", "storage.objects.create", "storage.objects.list")
        ),
        (exceptions.NotFound("The Bucket Does Not Exist"), "storage.objects.get", UserError, r": there is no bucket gs://posters"),
        (
            exceptions.Unauthorized(""),
            "",
            UserError,
            rf"^{URI}: Cloud Storage refuses the credentials of somebody@project: use other",
        ),
        (
            exceptions.Forbidden("somebody does not have storage.buckets.get access to the bucket"),
            "storage.objects.get",
            UserError,
            rf"^{URI}: somebody@project lacks storage.buckets.get on gs://posters: grant it, .* or choose another bucket$",
        ),
        (exceptions.Forbidden("no"), "storage.objects.list", UserError, r"lacks storage.objects.list on gs://posters"),
        (
            exceptions.BadRequest("Bucket is requester pays bucket but no user project provided."),
            "storage.objects.get",
            UserError,
            rf"^{URI}: gs://posters has Requester Pays, which is not supported: copy the files to a bucket of your own$",
        ),
        (
            exceptions.BadRequest("what"),
            "storage.objects.get",
            UserError,
            rf"^{URI}: Cloud Storage refuses the request with status 400: check the name and the bucket's settings$",
        ),
        (exceptions.TooManyRequests("", response=answer(429)), "", LostService, r"does not answer \(status 429\)"),
        (exceptions.ServiceUnavailable("https://upload?upload_id=secret"), "", LostService, r"\(ServiceUnavailable\): run"),
        (exceptions.RetryError("", InvalidResponse(answer(503))), "", LostService, r"does not answer \(status 503\): run"),
        (exceptions.RetryError("", None), "", LostService, r"does not answer \(RetryError\): run"),
        (
            REFUSED,
            "",
            UserError,
            rf"^{URI}: the credentials for Cloud Storage are refused \(the account is disabled\): use other credentials$",
        ),
        (
            google.auth.exceptions.RefreshError("try later", retryable=True),
            "",
            LostService,
            rf"^{URI}: no token for Cloud Storage \(try later\): run the same command again$",
        ),
        (google.auth.exceptions.TransportError("no connection"), "", LostService, r"does not answer \(TransportError\)"),
    ],
)
def test_an_error_of_googles_client_is_explained(monkeypatch, error, permission, end, said):
    monkeypatch.setattr(credentials, "_has_metadata_server", lambda: False)
    with pytest.raises(end, match=said), failures.explained(URI, permission):
        raise error


@pytest.fixture
def waits(monkeypatch):
    """The pauses of retries whose limits are those of a user who set nothing."""
    for name, value in patience._DEFAULTS.items():
        monkeypatch.setenv(name, value)
    failures.retry.cache_clear()
    yield clock.for_retries(monkeypatch)
    failures.retry.cache_clear()


def always(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize("error", [exceptions.ServiceUnavailable(""), exceptions.from_http_status(408, ""), BROKEN[0]])
def test_an_outage_is_waited_for_with_growing_pauses_and_then_reported(waits, error):
    with pytest.raises(exceptions.RetryError):
        failures.retry()(always(error))()
    assert waits.pauses[:8] == [0.5, 1, 2, 4, 8, 16, 32, 32]
    limits = patience.patience()
    assert limits.deadline - 32 < sum(waits.pauses) <= limits.deadline


def test_a_refusal_is_not_tried_again(waits):
    with pytest.raises(exceptions.Forbidden):
        failures.retry()(always(exceptions.Forbidden("")))()
    assert waits.pauses == []


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [(DataCorruption(None, "damaged"), True), (exceptions.ServiceUnavailable(""), True), (exceptions.Forbidden(""), False)],
)
def test_a_download_that_arrives_damaged_is_tried_again(waits, error, is_tried_again):
    with pytest.raises(exceptions.RetryError if is_tried_again else exceptions.Forbidden):
        failures.retry_download()(always(error))()
    assert bool(waits.pauses) is is_tried_again
