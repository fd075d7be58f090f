"""run.json: when, where and how fast a job ran. A job's times, hosts, paths and durations are nowhere else."""

import importlib.metadata
import platform
import socket
import sys
import time
from typing import Any

import tensorflow as tf
from etils import epath

from trainer import files


class RunRecord:
    """Keeps run.json up to date for this attempt at a job; those before it are kept in the file."""

    def __init__(self, path: epath.Path, *, attempt: int, data_dir: str, strategy: tf.distribute.Strategy) -> None:
        """Args:
        path: run.json.
        attempt: which attempt at the job this is.
        data_dir: where the data set is.
        strategy: what the job runs under.
        """
        self._path = path
        self._earlier = files.read_json(path)["attempts"] if path.exists() else []
        self._started = time.time()
        self._record: dict[str, Any] = {
            "attempt": attempt,
            "started": _utc(self._started),
            "host": socket.gethostname(),
            "command": sys.argv,
            "data_dir": data_dir,
            "strategy": type(strategy).__name__,
            "replicas": strategy.num_replicas_in_sync,
            "devices": [device.name for device in tf.config.list_logical_devices()],
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in ("poster-trainer", "tensorflow", "tf_keras")},
        }
        self._write()

    def mark(self, event: str) -> None:
        """Notes how many seconds after the start something was done."""
        self._record[f"{event}_after_s"] = round(time.time() - self._started, 3)
        self._write()

    def _write(self) -> None:
        files.write_json(self._path, {"attempts": [*self._earlier, self._record]})


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
