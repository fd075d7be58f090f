"""Log lines on stderr: text for a person, JSON for a log collector."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator

from absl import logging as absl_logging

# Kubernetes and Vertex AI, whose collectors read JSON.
_COLLECTORS = ("KUBERNETES_SERVICE_HOST", "CLOUD_ML_JOB_ID")

_step = 0
_formatter: logging.Formatter | None = None


def configure(style: str, *, worker: int = 0) -> None:
    """Sends the log lines of this package to stderr.

    Args:
      style: "text"; "json": one object a line with `severity`, `time`, `message`, `worker` and `step`, the names that Cloud Logging
        knows; or "auto": json in Kubernetes and on Vertex AI, else text.
      worker: the index of this worker.
    """
    global _formatter
    if style == "auto":
        style = "json" if any(name in os.environ for name in _COLLECTORS) else "text"
    _formatter = _Json(worker) if style == "json" else _Text("%(asctime)s %(message)s", "%H:%M:%S")
    handler = _Handler(sys.stderr)
    handler.setFormatter(_formatter)
    # TensorFlow's Python code logs through absl, and its lines below this level are of no use to a user.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logger = logging.getLogger("trainer")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def is_json() -> bool:
    """Returns whether the log lines are JSON."""
    return isinstance(_formatter, _Json)


def is_terminal() -> bool:
    """Returns whether a person reads the log as text on a terminal, so that a progress bar can be drawn."""
    return not is_json() and sys.stderr is not None and sys.stderr.isatty()


def at_step(step: int) -> None:
    """Sets the global step that the following log lines belong to."""
    global _step
    _step = step


def last_line(kind: str, message: str) -> None:
    """Writes to stderr why a command ends, as `KIND: MESSAGE`, or in the log's form where that is JSON.

    Args:
      kind: "error", or "stopped".
      message: one line.
    """
    line = f"{kind}: {message}"
    if isinstance(_formatter, _Json):
        level = logging.ERROR if kind == "error" else logging.WARNING
        line = _formatter.format(logging.LogRecord("trainer", level, __file__, 0, line, None, None))
    with _beside_bars():
        print(line, file=sys.stderr)


class _Handler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with _beside_bars():
            super().emit(record)


@contextlib.contextmanager
def _beside_bars() -> Iterator[None]:
    """Has what a block writes to stderr appear above a progress bar that is being drawn, and not within it."""
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"{line[:9]}{record.levelname}: {line[9:]}"


class _Json(logging.Formatter):
    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return json.dumps(
            {
                "severity": record.levelname,
                "time": f"{moment}.{int(record.msecs):03d}Z",
                "message": record.getMessage(),
                "worker": self._worker,
                "step": _step,
            },
            ensure_ascii=False,
        )
