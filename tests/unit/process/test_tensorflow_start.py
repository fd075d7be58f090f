"""TensorFlow's start-up says nothing on a machine without a GPU, and what is an error still does."""

import io
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

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

without_gpu = pytest.mark.skipif(any(map(os.path.exists, tensorflow_start._DRIVERS)), reason="the machine has a GPU's driver")


def python(program, **environment):
    """Runs a program, and returns its process with what it wrote to stderr."""
    clean = {name: value for name, value in ENVIRONMENT.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=clean | environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@without_gpu
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


def filtered(lines, monkeypatch):
    """Returns the lines that the filter passes on."""
    passed: list[tuple[int, bytes]] = []
    monkeypatch.setattr(tensorflow_start, "sys", types.SimpleNamespace(stdin=types.SimpleNamespace(buffer=io.BytesIO(lines))))
    monkeypatch.setattr(
        tensorflow_start, "os", types.SimpleNamespace(path=os.path, write=lambda file, line: passed.append((file, line)))
    )
    tensorflow_start._filter()
    assert {file for file, _ in passed} <= {2}
    return [line for _, line in passed]


CU_INIT = NOISE[2].encode() + b"\n"


@pytest.mark.parametrize(("driver", "passed"), [(True, [CU_INIT]), (False, [])])
def test_an_error_of_cuda_is_noise_only_on_a_machine_without_a_gpu(monkeypatch, tmp_path, driver, passed):
    monkeypatch.setattr(tensorflow_start, "_DRIVERS", (str(tmp_path / "none"), str(tmp_path) if driver else str(tmp_path / "two")))
    assert filtered(CU_INIT, monkeypatch) == passed


@pytest.mark.parametrize(
    "line",
    [
        "W0000 00:00:1796055645.197515   11565 rpc.cc:31] Connection reset",
        "E0000 00:00:1796055148.661722    4013 cuda_dnn.cc:52] Unable to register cuDNN factory: it has been registered already",
        "E0000 00:00:1796055148.661722    4013 cuda_blas.cc:52] Unable to register cuBLAS factory: it has been registered already",
        "E0000 00:00:1796055148.661722    4013 onednn.cc:52] oneDNN supports DT_UINT8 only on platforms with AVX-512",
        "E0000 00:00:1796055148.661722    4013 collective.cc:52] BaseCollectiveExecutor::StartAbort UNAVAILABLE",
        "Additional GRPC error information from remote target /job:worker/replica:0/task:0",
        ":UNKNOWN:Error received from peer",
        "UNKNOWN: Error received from peer",
    ],
)
def test_what_comes_with_every_job_is_noise(monkeypatch, line):
    assert filtered(line.encode() + b"\nthe rest\n", monkeypatch) == [b"the rest\n"]


def test_a_process_without_stderr_runs_the_block(monkeypatch):
    def closed(file):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.setattr(os, "dup", closed)
    with tensorflow_start.quiet() as is_quiet:
        assert is_quiet


def test_whoever_sets_the_level_keeps_stderr_as_it_is(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("stderr was redirected"))
    with tensorflow_start.quiet() as is_quiet:
        assert not is_quiet


def test_a_filter_that_does_not_end_keeps_nobody_waiting_and_no_file_open(monkeypatch, capfd):
    reader, writer = os.pipe()
    told: list[object] = []

    class Filter:
        def __init__(self, command, *, stdin, start_new_session):
            told.append((command[0], command[-1] == tensorflow_start.__file__, stdin, start_new_session))
            self.stdin = os.fdopen(writer, "wb")

        def wait(self, timeout):
            told.append(timeout)
            raise subprocess.TimeoutExpired("the filter", timeout)

    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.setattr(subprocess, "Popen", Filter)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with tensorflow_start.quiet():
        os.write(2, b"noise")
    os.write(2, b"after")
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1, "only the pipe to the filter was closed"
    assert (os.read(reader, 100), os.read(reader, 100)) == (b"noise", b""), "the filter sees the end"
    os.close(reader)
    assert capfd.readouterr().err == "after"
    assert told == [(sys.executable, True, subprocess.PIPE, True), 2.0]


FAKE = """
import os, types
told = [os.environ.get("TF_CPP_MIN_LOG_LEVEL")]
config = types.SimpleNamespace(list_physical_devices=lambda: told.append("devices"))
"""


@pytest.fixture
def fake_tensorflow(monkeypatch, tmp_path):
    """A package that is imported in TensorFlow's place."""
    (tmp_path / "tensorflow.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    real = sys.modules.pop("tensorflow", None)
    logger = logging.getLogger("tensorflow")
    level, filters = logger.level, list(logger.filters)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    yield
    logger.setLevel(level)
    logger.filters = filters
    sys.modules.pop("tensorflow", None)
    if real:
        sys.modules["tensorflow"] = real


def test_the_start_hides_messages_and_asks_for_the_devices_once(fake_tensorflow):
    tensorflow_start.start()
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    told = sys.modules["tensorflow"].told
    assert told == ["2", "devices"]
    tensorflow_start.start()
    assert told == ["2", "devices"]


def test_a_level_that_the_user_sets_stays(fake_tensorflow, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    tensorflow_start.start()
    assert sys.modules["tensorflow"].told == ["1", "devices"]
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_keras_does_not_warn_of_a_callback_that_saves_the_state(fake_tensorflow, caplog):
    tensorflow_start.start()
    logger = logging.getLogger("tensorflow")
    logger.info("a detail")
    logger.warning("Callback method `%s` is slow compared to the batch time", "on_train_batch_end")
    logger.warning("this matters")
    assert [record.getMessage() for record in caplog.records if record.name == "tensorflow"] == ["this matters"]
