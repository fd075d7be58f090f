"""Log lines: text for a person, JSON for a log collector."""

import json
import logging
import sys
import time

from absl import logging as absl_logging

_step = 0


def configure(style: str, *, worker: int = 0) -> None:
    """Sends the package's log lines to stderr.

    Args:
      style: text, or json: one object a line with `severity`, `time`, `message`, `worker` and `step`, the names that
        Cloud Logging
        knows. auto is text.
      worker: this worker's index.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(worker) if style == "json" else _Text("%(asctime)s %(message)s", "%H:%M:%S"))
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
