"""Log lines: text for a person, JSON for a log collector."""

import json
import logging
import os
import sys
import time

from absl import logging as absl_logging

# Kubernetes and Vertex AI, whose collectors read JSON.
_COLLECTORS = ("KUBERNETES_SERVICE_HOST", "CLOUD_ML_JOB_ID")

_step = 0
_formatter: logging.Formatter | None = None


def configure(style: str, *, worker: int = 0) -> None:
    """Sends the package's log lines to stderr.

    Args:
      style: text, or json: one object a line with `severity`, `time`, `message`, `worker` and `step`, the names that Cloud
        Logging knows. auto is json where a log collector of Google Cloud reads along, else text.
      worker: this worker's index.
    """
    global _formatter
    if style == "auto":
        style = "json" if any(name in os.environ for name in _COLLECTORS) else "text"
    _formatter = _Json(worker) if style == "json" else _Text("%(asctime)s %(message)s", "%H:%M:%S")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter)
    # absl's logger is TensorFlow's too, and what it tells at this level is of no use to a user.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    logger = logging.getLogger("trainer")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def at_step(step: int) -> None:
    """Says which global step the coming lines belong to."""
    global _step
    _step = step


def last_line(kind: str, message: str) -> None:
    """Says on stderr why a command ends, as `KIND: MESSAGE`, or in the form of the log where that is JSON."""
    line = f"{kind}: {message}"
    if isinstance(_formatter, _Json):
        level = logging.ERROR if kind == "error" else logging.WARNING
        line = _formatter.format(logging.LogRecord("trainer", level, __file__, 0, line, None, None))
    print(line, file=sys.stderr)


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
