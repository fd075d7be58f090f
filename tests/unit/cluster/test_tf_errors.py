"""TensorFlow's errors, and what they mean to whoever restarts the worker."""

import types
from typing import Any

import pytest
import tensorflow as tf

from trainer.cluster import tf_errors
from trainer.dataset import manifest
from trainer.errors import LostPeer, LostService, UserError

errors = tf.errors
# What Keras puts before a message.
KERAS = 'Graph execution error:\n\nDetected at node fit defined at:\n<stack traces unavailable>\n  File "a.py"\n'


def raised(error, *, workers=2, splits=None):
    """Returns what the error becomes in a block that reads a data set."""
    counts = splits or {"train": 3}
    dataset: Any = types.SimpleNamespace(
        path="/data", splits={name: types.SimpleNamespace(examples=count) for name, count in counts.items()}
    )
    with pytest.raises(Exception) as caught, tf_errors.explained(dataset, batch_size=64, workers=workers):
        raise error
    return caught.value


def test_a_block_without_an_error_is_left_alone():
    dataset: Any = None
    with tf_errors.explained(dataset, batch_size=64):
        pass


@pytest.mark.parametrize(
    "error", [KeyError("genre"), ValueError("a fault"), errors.OutOfRangeError(None, None, "end"), LostService("no answer")]
)
def test_an_error_of_another_kind_is_left_as_it_is(error):
    assert raised(error) is error


# Peers.

OF_PEERS = [errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError]
OF_ANYTHING = [errors.InternalError, errors.FailedPreconditionError, errors.UnknownError]


@pytest.mark.parametrize("kind", OF_PEERS)
def test_an_error_of_a_collective_operation_is_a_lost_peer(kind):
    end = raised(kind(None, None, f"{KERAS}\n  Socket closed\nmore"))
    assert type(end) is LostPeer
    assert str(end) == f"lost another worker ({kind.__name__}: Socket closed)"


@pytest.mark.parametrize("kind", OF_ANYTHING)
@pytest.mark.parametrize(
    "words",
    [
        "Additional GRPC error information from remote target /job:worker",
        ':{grpc_message:"x"}',
        "Collective ops is aborted",
        "the collective ops",
        "Coordination Service is down",
        "coordinationservice agent",
        "Device incarnation is 3",
        "a gRPC server",
    ],
)
def test_an_error_of_any_kind_whose_text_is_about_a_peer_is_a_lost_peer(kind, words):
    assert type(raised(kind(None, None, words))) is LostPeer


@pytest.mark.parametrize("kind", OF_ANYTHING)
def test_an_error_of_any_kind_without_a_word_about_a_peer_is_a_crash(kind):
    error = kind(None, None, "cuDNN failed")
    assert raised(error) is error


@pytest.mark.parametrize("kind", OF_PEERS + OF_ANYTHING)
def test_the_only_worker_has_lost_no_peer(kind):
    error = kind(None, None, "the gRPC server of the remote target")
    assert raised(error, workers=1) is error


def target(task):
    return f"from remote target /job:worker/replica:0/task:{task}:\n"


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (target(12) + ':{grpc_message:"failed to connect", grpc_status:14}', "worker 12 (failed to connect)"),
        (target(1) + target(1) + "Socket closed", "worker 1 (UnavailableError: from remote target /job:worker/replica:0/task:1:)"),
        (target(1) + target(2) + ':{grpc_message:"a"} {grpc_message:"b"}', "another worker (a)"),
        (KERAS, "another worker (UnavailableError: UnavailableError)"),
        ("x" * 400, f"another worker (UnavailableError: {'x' * 300})"),
    ],
)
def test_a_lost_worker_is_named_if_the_error_says_which_it_is(message, lost):
    assert str(raised(errors.UnavailableError(None, None, message))) == f"lost {lost}"


# Files, memory and numbers.


@pytest.mark.parametrize("kind", [errors.NotFoundError, errors.PermissionDeniedError])
def test_a_file_that_is_gone_or_locked_is_the_users_to_restore(kind):
    end = raised(kind(None, None, KERAS + "/data/train-00000: gone"))
    assert type(end) is UserError
    assert str(end) == "/data/train-00000: gone, though it could be read before: restore it, then run the same command again"


@pytest.mark.parametrize("words", ["write failed: No space left on device", "over the quota"])
def test_a_full_disk_is_the_users_to_empty(words):
    end = raised(errors.ResourceExhaustedError(None, None, words))
    assert type(end) is UserError
    assert str(end) == f"{words}: free some space, then run the same command again"


def test_a_batch_too_large_for_the_memory_is_the_users_to_lower():
    end = raised(errors.ResourceExhaustedError(None, None, KERAS + "OOM when allocating tensor"))
    assert type(end) is UserError
    assert str(end) == (
        "--batch_size=64 needs more memory than there is (OOM when allocating tensor): lower it, or use --precision=mixed_bfloat16"
    )


@pytest.mark.parametrize("words", ["check_numerics at a.py\nfile a", "CheckNumerics: found Inf"])
def test_a_value_that_is_not_finite_is_explained_below_the_place_where_it_arose(words, capsys):
    end = raised(errors.InvalidArgumentError(None, None, words))
    assert type(end) is UserError
    assert str(end) == "a value is not finite: lower --learning_rate, or correct the operation named above"
    assert capsys.readouterr().err == words + "\n"


def test_another_invalid_argument_is_a_crash(capsys):
    error = errors.InvalidArgumentError(None, None, "shapes do not match")
    assert raised(error) is error
    assert capsys.readouterr().err == ""


def test_damaged_shards_are_named(monkeypatch):
    damaged = {"train": ["train-00000"], "validation": [], "test": ["test-00001", "test-00002"]}

    def corrupt(dataset, split):
        assert dataset.splits[split].examples, "a split without examples has no shards to read"
        return damaged[split]

    monkeypatch.setattr(manifest, "corrupt_shards", corrupt)
    error = errors.DataLossError(None, None, "corrupted record at 0")
    end = raised(error, splits={"train": 1, "validation": 2, "none": 0, "test": 3})
    assert type(end) is UserError
    assert str(end) == (
        "/data: train-00000, test-00001, test-00002 is damaged, because its CRC32C is not the one in dataset.json: "
        "prepare the data set again with --overwrite"
    )
    assert raised(error, splits={"validation": 2}) is error, "the shards are as prepare wrote them"


# Errors of this package and of Cloud Storage, which TensorFlow has turned into its own.


@pytest.mark.parametrize("kind", [UserError, LostService])
def test_an_error_of_this_package_that_tensorflow_has_wrapped_is_itself_again(kind):
    end = raised(errors.UnknownError(None, None, f"{KERAS}trainer.errors.{kind.__name__}: /cache is full: empty it\nTraceback"))
    assert type(end) is kind
    assert str(end) == "/cache is full: empty it"


@pytest.mark.parametrize(
    "error", [errors.UnknownError(None, None, "MyUserErrors: x"), errors.InternalError(None, None, "UserError: x")]
)
def test_another_error_is_not_taken_for_one_of_this_package(error):
    assert raised(error, workers=1) is error


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ("HTTP response code 503 with body '' when reading gs://films/a", LostService, "Cloud Storage does not answer"),
        ("HTTP response code 404 with body '' when reading gs://films/a", UserError, "^gs://films/a is gone: restore it, then run"),
    ],
)
def test_cloud_storages_answer_is_explained(message, kind, words):
    end = raised(errors.AbortedError(None, None, message))
    assert type(end) is kind
    assert end.args[0].startswith("gs://films/a")
    with pytest.raises(kind, match=words):
        raise end
