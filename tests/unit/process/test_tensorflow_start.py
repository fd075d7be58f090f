"""TensorFlow's start-up says nothing on a machine without a GPU, and what is an error still does."""

import os
import subprocess
import sys

import pytest

from tests.support.commands import ENVIRONMENT, REPOSITORY
from trainer.process import tensorflow_start

NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1796055645.197515   11565 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.",
    "E0000 00:00:1796055148.661722    4013 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN ERROR (303)",
    "E0000 00:00:1796055148.661722    4013 cuda_fft.cc:477] Unable to register cuFFT factory: it has been registered already",
)
ERRORS = (
    "E0000 00:00:1796055148.661722    4013 cuda_dnn.cc:52] Could not create cudnn handle",
    "F0000 00:00:1796055148.661722    4013 cpu_feature_guard.cc:78] This machine has no AVX",
    "Traceback (most recent call last):",
    "a line of the program's own",
)

pytestmark = pytest.mark.skipif(any(map(os.path.exists, tensorflow_start._DRIVERS)), reason="the machine has a GPU's driver")


def python(program, **environment):
    """Runs a program, and returns its process with what it wrote to stderr."""
    clean = {name: value for name, value in ENVIRONMENT.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=clean | environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_tensorflow_starts_without_a_word():
    done = python(
        "import os\nfrom trainer.process import tensorflow_start\ntensorflow_start.start()\n"
        "import tensorflow as tf\ntf.function(lambda x: x + 1)(tf.constant(1))\n"
        "print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))"
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "None", "a process that this one starts decides for itself"


def test_whoever_sets_the_level_reads_what_tensorflow_writes():
    done = python("from trainer.process import tensorflow_start; tensorflow_start.start()", TF_CPP_MIN_LOG_LEVEL="0")
    assert "absl::InitializeLog" in done.stderr


def test_all_but_the_noise_is_passed_on_in_its_order():
    lines = [*NOISE, ERRORS[0], NOISE[0], *ERRORS[1:]]
    written = "\n".join(lines) + "\n"
    done = python(
        "import os, sys\nfrom trainer.process import tensorflow_start\n"
        f"with tensorflow_start.quiet():\n    os.write(2, {written.encode()!r})\nprint('after', file=sys.stderr)"
    )
    assert done.stderr.splitlines() == [*ERRORS, "after"]


def test_the_last_words_of_a_process_that_aborts_are_passed_on():
    done = python(
        "import os\nfrom trainer.process import tensorflow_start\n"
        f"with tensorflow_start.quiet():\n    os.write(2, {ERRORS[1].encode()!r})\n    os.abort()"
    )
    assert done.returncode < 0
    assert done.stderr.startswith(ERRORS[1])
