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
import signal
import subprocess
import sys
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_WARNINGS_HIDDEN = "2"

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ "
    rb"|E\d{4} .*Unable to register cu(FFT|DNN|BLAS) factory"
    rb"|E\d{4} .*failed call to cuInit"
    # A chief that has finished training leaves the cluster while its peers wait for it.
    rb"|E\d{4} .*BaseCollectiveExecutor::StartAbort"
    rb"|Additional GRPC error information from remote target"
    rb"|:?UNKNOWN:\s*Error received from peer"
)

# Where the driver of an NVIDIA GPU shows, also in Windows' Linux: there cuInit's error tells of a broken driver.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


def start() -> None:
    """Imports TensorFlow and lists its devices, quietly; a second call does nothing.

    A user who sets TF_CPP_MIN_LOG_LEVEL gets what TensorFlow writes at that level.
    """
    if "tensorflow" in sys.modules:
        return
    chosen_by_user = _LEVEL in os.environ
    # Left out again below: processes that this one starts are to choose for themselves.
    os.environ.setdefault(_LEVEL, _WARNINGS_HIDDEN)
    with contextlib.nullcontext() if chosen_by_user else quiet():
        import tensorflow as tf

        # CUDA is asked for its devices here for the first time.
        tf.config.list_physical_devices()
    if not chosen_by_user:
        del os.environ[_LEVEL]
    logger = logging.getLogger("tensorflow")
    logger.setLevel(logging.WARNING)
    # Keras warns of a callback that takes longer than a step, as one that saves the state does.
    logger.addFilter(lambda record: "is slow compared to the batch time" not in record.getMessage())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops TensorFlow's noise from stderr within a block; all that was written there has been passed on when the block ends."""
    if any(map(os.path.exists, _DRIVERS)):
        yield
        return
    try:
        terminal = os.dup(2)
    except OSError:  # This process has no stderr.
        yield
        return
    sys.stderr.flush()
    child = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE)
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # The child reads the end of its input now.
        os.close(terminal)
        child.wait()


def _filter() -> None:
    """Copies stdin to stderr, line by line, without the noise."""
    # The process that writes decides about these; a request to stop may be followed by its last words.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        if not _NOISE.match(line):
            os.write(2, line)


if __name__ == "__main__":
    _filter()
