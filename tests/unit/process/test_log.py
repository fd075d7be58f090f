"""Log lines, for a person and for a collector."""

import io
import json
import logging
import subprocess
import sys
import time

import pytest
from absl import logging as absl_logging
from tqdm import tqdm

from tests.support.commands import REPOSITORY
from trainer.process import log


@pytest.fixture(autouse=True)
def _own_log(monkeypatch):
    """A process that has not configured its log, outside of any cloud."""
    logger = logging.getLogger("trainer")
    before = logger.handlers, logger.propagate, logger.level, absl_logging.get_verbosity()
    monkeypatch.setattr(log, "_formatter", None)
    monkeypatch.setattr(log, "_step", 0)
    for name in ("KUBERNETES_SERVICE_HOST", "CLOUD_ML_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
    absl_logging.set_verbosity(before[3])


LOGGER = logging.getLogger("trainer.training.loop")


def at(seconds, message="resumed", level=logging.INFO):
    record = logging.LogRecord("trainer.job", level, "a file", 1, message, None, None)
    record.created, record.msecs = seconds, seconds % 1 * 1000
    return record


def test_a_person_reads_the_time_and_the_message(capsys):
    log.configure("text")
    LOGGER.handle(at(1_000_000_000.5))
    assert capsys.readouterr().err == time.strftime("%H:%M:%S resumed\n", time.localtime(1_000_000_000))


@pytest.mark.parametrize(("level", "mark"), [(logging.INFO, ""), (logging.WARNING, "WARNING: "), (logging.ERROR, "ERROR: ")])
def test_what_needs_attention_is_marked(capsys, level, mark):
    log.configure("text")
    LOGGER.log(level, "peer %d is late", 3)
    assert capsys.readouterr().err[8:] == f" {mark}peer 3 is late\n"


def test_a_collector_reads_an_object_a_line(capsys):
    log.configure("json", worker=3)
    LOGGER.handle(at(1_000_000_000.0625, "«Amélie» is damaged", logging.WARNING))
    log.at_step(40)
    LOGGER.handle(at(1_000_000_001.5))
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first) == {
        "severity": "WARNING",
        "time": "2001-09-09T01:46:40.062Z",
        "message": "«Amélie» is damaged",
        "worker": 3,
        "step": 0,
    }
    assert "«Amélie»" in first, "a person can read it too"
    told = json.loads(second)
    assert (told["time"], told["step"]) == ("2001-09-09T01:46:41.500Z", 40)


def test_the_log_of_the_only_worker_is_worker_0s(capsys):
    log.configure("json")
    LOGGER.info("training")
    assert json.loads(capsys.readouterr().err)["worker"] == 0


@pytest.mark.parametrize(
    ("style", "variable", "is_json"),
    [
        ("auto", None, False),
        ("auto", "KUBERNETES_SERVICE_HOST", True),
        ("auto", "CLOUD_ML_JOB_ID", True),
        ("text", "CLOUD_ML_JOB_ID", False),
        ("json", None, True),
    ],
)
def test_the_form_is_for_a_collector_where_there_is_one(monkeypatch, style, variable, is_json):
    if variable:
        monkeypatch.setenv(variable, "1")
    log.configure(style)
    assert log.is_json() == is_json


def test_a_line_is_written_once_and_only_what_a_user_needs(capsys, caplog):
    log.configure("json")
    log.configure("text")
    LOGGER.debug("a detail")
    LOGGER.info("training")
    assert capsys.readouterr().err.count("\n") == 1
    assert not caplog.records, "no other handler repeats it"


def test_tensorflow_says_only_what_is_a_warning():
    absl_logging.set_verbosity(absl_logging.INFO)
    log.configure("text")
    assert absl_logging.get_verbosity() == absl_logging.WARNING


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("style", "stderr", "is_terminal"),
    [("text", Terminal(), True), ("json", Terminal(), False), ("text", io.StringIO(), False), ("text", None, False)],
)
def test_a_bar_is_drawn_only_for_a_person_at_a_terminal(monkeypatch, style, stderr, is_terminal):
    log.configure(style)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert log.is_terminal() is is_terminal


def test_without_a_log_the_last_line_is_text(capsys):
    log.last_line("error", "the disk is full")
    assert capsys.readouterr().err == "error: the disk is full\n"


@pytest.mark.parametrize(("kind", "severity"), [("error", "ERROR"), ("stopped", "WARNING")])
def test_the_last_line_has_the_form_of_the_log(capsys, kind, severity):
    log.configure("text")
    log.last_line(kind, "100% done")
    log.configure("json", worker=2)
    log.last_line(kind, "100% done")
    text, line = capsys.readouterr().err.splitlines()
    assert text == f"{kind}: 100% done"
    told = json.loads(line)
    assert (told["severity"], told["message"], told["worker"]) == (severity, f"{kind}: 100% done", 2)


@pytest.mark.parametrize("write", [lambda: LOGGER.info("saved"), lambda: log.last_line("stopped", "saved")])
def test_a_line_stands_above_a_progress_bar(capsys, write):
    log.configure("text")
    with tqdm(total=3, file=sys.stderr, desc="training"):
        capsys.readouterr()
        write()
        before, _, after = capsys.readouterr().err.partition("saved\n")
    assert before.startswith("\r")
    assert "training" not in before, "the bar is wiped away first"
    assert "training" in after, "the bar is drawn again below the line"


def test_a_process_without_progress_bars_does_not_load_their_library(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "tqdm")
    log.last_line("error", "the disk is full")
    assert "tqdm" not in sys.modules
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_what_comes_before_training_belongs_to_step_0():
    program = "import logging; from trainer.process import log; log.configure('json'); logging.getLogger('trainer').info('ready')"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert json.loads(done.stderr)["step"] == 0
