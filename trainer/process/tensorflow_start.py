"""Starts TensorFlow without the messages that it prints on a machine without a GPU.

TensorFlow's C++ code writes them to file descriptor 2 before its logging is set up, so that neither TF_CPP_MIN_LOG_LEVEL nor
Python's logging holds them back. Within `quiet` a small child process reads what is written there, drops the lines of `_NOISE`
and passes on all others. It is a process and not a thread or a file, so that the last words of a process that aborts are passed
on as well.
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_WARNINGS_HIDDEN = "2"

_SECONDS_TO_END = 2.0

# The beginnings of lines, as Abseil writes them: severity, month and day, time, thread, file and line.
_NOISE = (
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    rb"[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ ",
    rb"E\d{4} .*Unable to register cu(FFT|DNN|BLAS) factory",
    rb"E\d{4} .*oneDNN supports DT_UINT8 only on platforms with AVX-512",
    # A chief that has finished training leaves the cluster while its peers wait for it. Where a worker is lost, the error with
    # which its peers exit says so.
    rb"E\d{4} .*BaseCollectiveExecutor::StartAbort",
    rb"Additional GRPC error information from remote target",
    rb":?UNKNOWN:\s*Error received from peer",
)
_NOISE_WITHOUT_GPU = (rb"E\d{4} .*failed call to cuInit",)

# Where the driver of an NVIDIA GPU shows, also in Windows' Linux.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


def start() -> None:
    """Imports TensorFlow and lists its devices, quietly; a second call does nothing.

    A user who sets TF_CPP_MIN_LOG_LEVEL gets what TensorFlow writes at that level.
    """
    if "tensorflow" in sys.modules:
        return
    with quiet() as is_quiet:
        if is_quiet:
            # Removed again below: a process that this one starts decides for itself.
            os.environ[_LEVEL] = _WARNINGS_HIDDEN
        import tensorflow as tf

        # This asks CUDA for its devices for the first time.
        tf.config.list_physical_devices()
        if is_quiet:
            del os.environ[_LEVEL]
    logger = logging.getLogger("tensorflow")
    logger.setLevel(logging.WARNING)
    # Keras warns of a callback that takes longer than a step, as one that saves the state does.
    logger.addFilter(lambda record: "is slow compared to the batch time" not in record.getMessage())


@contextlib.contextmanager
def quiet() -> Iterator[bool]:
    """Drops TensorFlow's noise from stderr within a block, except where the user sets TF_CPP_MIN_LOG_LEVEL.

    When the block ends, everything else that was written there has been passed on.

    Yields:
      Whether the noise is dropped.
    """
    if _LEVEL in os.environ:
        yield False
        return
    with _filtered():
        yield True


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    try:
        terminal = os.dup(2)
    except OSError:  # This process has no stderr.
        yield
        return
    sys.stderr.flush()
    # In a session of its own neither Ctrl-C nor the end of this process's group ends it before it has passed on the last words.
    child = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # The child reads the end of its input now, unless another process has inherited its pipe.
        os.close(terminal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_SECONDS_TO_END)


def _filter() -> None:
    """Copies stdin to stderr, line by line, without the noise."""
    # Only where there is no driver of a GPU does cuInit's error say nothing.
    noise = _NOISE if any(map(os.path.exists, _DRIVERS)) else _NOISE + _NOISE_WITHOUT_GPU
    pattern = re.compile(b"|".join(noise))
    for line in sys.stdin.buffer:
        if not pattern.match(line):
            os.write(2, line)


if __name__ == "__main__":
    _filter()
