"""TensorFlow's errors about Cloud Storage; the messages are those that `tests.fakes.storage` provoked."""

import re

import google.auth.exceptions
import pytest
import tensorflow as tf

from trainer.errors import LostService, UserError
from trainer.storage import credentials, failures, files, objects, patience

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
            r"^gs://posters/jobs/a: Cloud Storage does not answer .*partial file",
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
        tf.errors.NotFoundError(None, None, "/data/train.tfrecord; No such file or directory"),
        ValueError("HTTP response code 503 gs://posters/x"),
    ],
)
def test_other_errors_are_left_to_others(error):
    assert failures.of_tensorflow(error) is None


@pytest.mark.parametrize(
    "uri",
    ["gs://", "gs:///x", "gs://a..b/x", "gs://192.168.0.1/x", "gs://UPPER/x", "gs://a/x", "gs://-posters/x", "gs://post ers/x"],
)
def test_an_impossible_bucket_name_is_refused(uri):
    with pytest.raises(UserError, match=r"cannot be a bucket's name: write gs://BUCKET/PATH"):
        objects.parse(uri)


def test_the_body_of_an_answer_is_not_repeated():
    message = f"{AFTER_ALL}{FAILED}HTTP response code 503 with body 'secret' when reading gs://posters/x"
    assert "secret" not in str(failures.of_tensorflow(tf.errors.AbortedError(None, None, message)))


@pytest.mark.parametrize("is_on_google_cloud", [True, False])
def test_a_metadata_server_may_answer_later(monkeypatch, is_on_google_cloud):
    """The metadata server marks no failure as transient."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("NO_GCE_CHECK", "false" if is_on_google_cloud else "true")
    refused = google.auth.exceptions.RefreshError("the metadata server answers 503")
    assert failures.is_transient(refused) is credentials.may_succeed_later(refused) is is_on_google_cloud
    assert failures.is_transient(google.auth.exceptions.TransportError("no connection"))


def test_a_setting_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setenv("GCS_RETRY_CONFIG_MAX_RETRIES", "many")
    with pytest.raises(UserError, match=r"variable GCS_RETRY_CONFIG_MAX_RETRIES must be a number, got 'many'"):
        patience.patience()


def test_a_url_of_another_service_is_refused_without_its_password():
    with pytest.raises(UserError, match=r"^--job_dir=s3://… is not supported: name a path on a disk, or gs://BUCKET/PATH$"):
        files.from_flag("--job_dir", "s3://user:password@bucket/jobs")


def test_both_clients_are_equally_patient(monkeypatch):
    for name, value in (
        ("GCS_REQUEST_IDLE_TIMEOUT_SECS", "20"),
        ("GCS_RETRY_CONFIG_MAX_RETRIES", "3"),
        ("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "500000"),
        ("GCS_RETRY_CONFIG_MAX_DELAY_TIME_US", "1000000"),
    ):
        monkeypatch.setenv(name, value)
    assert patience.patience() == patience.Patience(idle=20, first_pause=0.5, longest_pause=1, deadline=0.5 + 1 + 1 + 3 * 20)
