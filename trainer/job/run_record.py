"""run.json: when, where and how fast a job ran. A job's times, hosts, paths and durations are nowhere else."""

import importlib.metadata
import platform
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras
from etils import epath

from trainer.job import job_dir
from trainer.storage import files


class RunRecord:
    """Keeps run.json up to date for this attempt at a job; those before it are kept in the file."""

    def __init__(self, path: epath.Path, *, data_dir: str, check: Callable[[], None]) -> None:
        """Args:
        path: run.json.
        data_dir: where the data set is.
        check: raises before a write if the directory is no longer this process's.
        """
        self._path, self._check = path, check
        self._earlier = files.read_json(path)["attempts"] if files.exists(path) else []
        self._started = time.time()
        self._record: dict[str, Any] = {
            "attempt": len(self._earlier) + 1,
            "launched_as": job_dir.launched_as(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "host": socket.gethostname(),
            "command": sys.argv,
            "data_dir": data_dir,
            "python": platform.python_version(),
            # tensorflow-tpu is another distribution of the same module.
            "versions": {
                "poster-trainer": importlib.metadata.version("poster-trainer"),
                "tensorflow": tf.__version__,
                "tf_keras": keras.__version__,
            },
        }
        self.note()

    def note(self, **facts: Any) -> None:
        """Adds what became known."""
        self._record |= facts
        self._check()
        files.write_json(self._path, {"attempts": [*self._earlier, self._record]})

    def mark(self, event: str) -> None:
        """Notes how many seconds after the start something was done."""
        self.note(**{f"{event}_after_s": round(time.time() - self._started, 3)})
