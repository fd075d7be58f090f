"""Turns TensorFlow's errors into errors of the exit-code contract, where their cause is known."""

import contextlib
import re
import sys
from collections.abc import Iterator

import tensorflow as tf

from trainer.dataset import manifest
from trainer.errors import Ended, LostPeer, LostService, UserError
from trainer.storage import failures

# What a collective operation raises when a worker dies, restarts, or loses its network.
_LOST_PEER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)

# These can have any cause, such as a kernel that fails in every attempt, unless their text is about a peer.
_PERHAPS_LOST_PEER = (tf.errors.InternalError, tf.errors.FailedPreconditionError, tf.errors.UnknownError)
_OF_A_PEER = re.compile(r"remote target|grpc_message|[Cc]ollective ops|[Cc]oordination ?[Ss]ervice|incarnation|gRPC server")


@contextlib.contextmanager
def explained(dataset: manifest.Dataset, *, batch_size: int, workers: int = 1) -> Iterator[None]:
    """Turns TensorFlow's errors within a block into an error of the contract, where their cause is known.

    Args:
      dataset: the data set that the block reads; its checksums show which shard is damaged.
      batch_size: the size of the global batch, for the message about memory.
      workers: the number of workers; with one, no error is about a peer.

    Raises:
      UserError: a shard is damaged, a file is gone or may not be read, the disk is full, a device has too little memory, or
        --debug_nans found a value that is not finite.
      LostPeer: one of several workers is lost.
      LostService: Cloud Storage does not answer.
    """
    try:
        with _ended():
            yield
    except tf.errors.DataLossError as error:
        damaged = [
            name for split in dataset.splits if dataset.splits[split].examples for name in manifest.corrupt_shards(dataset, split)
        ]
        if not damaged:
            raise
        raise UserError(
            f"{dataset.path}: {', '.join(damaged)} is damaged, because its CRC32C is not the one in dataset.json: {manifest.REMEDY}"
        ) from error
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
        raise UserError(
            f"{_first_line(error)}, though it could be read before: restore it, then run the same command again"
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in error.message or "quota" in error.message:
            raise UserError(f"{_first_line(error)}: free some space, then run the same command again") from error
        raise UserError(
            f"--batch_size={batch_size} needs more memory than there is ({_first_line(error)}): lower it, or use "
            "--precision=mixed_bfloat16"
        ) from error
    except (*_LOST_PEER, *_PERHAPS_LOST_PEER) as error:
        if workers == 1 or (isinstance(error, _PERHAPS_LOST_PEER) and not _OF_A_PEER.search(error.message)):
            raise
        raise LostPeer(f"lost {_lost_worker(error)}") from error
    except tf.errors.InvalidArgumentError as error:
        if "check_numerics" not in error.message and "CheckNumerics" not in error.message:
            raise
        # Several lines: the operation, and where the program made it.
        print(error.message, file=sys.stderr)
        raise UserError("a value is not finite: lower --learning_rate, or correct the operation named above") from error


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """Turns errors of Cloud Storage, and errors of this package that TensorFlow has wrapped, into errors of the contract."""
    try:
        yield
    except tf.errors.OpError as error:
        end = failures.of_tensorflow(error)
        if isinstance(end, Ended):
            raise end from error
        if end is not None:
            raise UserError(f"{end.filename} is gone: restore it, then run the same command again") from error
        # tf.data keeps only the text of an error in a function that it calls.
        if isinstance(error, tf.errors.UnknownError) and (wrapped := _WRAPPED.search(error.message)):
            raise {kind.__name__: kind for kind in _KINDS}[wrapped[1]](wrapped[2]) from error
        raise


_KINDS = (UserError, LostService)
_WRAPPED = re.compile(rf"\b({'|'.join(kind.__name__ for kind in _KINDS)}): (.*)")


def _lost_worker(error: tf.errors.OpError) -> str:
    """Names the worker that an error of a collective operation is about, if the error says so, and the reason."""
    tasks = set(re.findall(r"remote target /job:worker/replica:\d+/task:(\d+)", error.message))
    reasons = re.findall(r'grpc_message:"([^"]*)"', error.message) or [f"{type(error).__name__}: {_first_line(error)}"]
    return f"{f'worker {tasks.pop()}' if len(tasks) == 1 else 'another worker'} ({reasons[0]})"


# Lines that Keras puts before a message.
_PREAMBLE = ("Graph execution error", "Detected at", "<stack traces", "  File")


def _first_line(error: tf.errors.OpError) -> str:
    lines = [line.strip() for line in error.message.splitlines() if line.strip() and not line.startswith(_PREAMBLE)]
    return (lines or [type(error).__name__])[0][:300]
