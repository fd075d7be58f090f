"""run.json: when, where and how fast a job ran. No other file of a job contains times, hosts, paths or durations."""

import importlib.metadata
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from trainer.job import job_dir
from trainer.storage import files


class RunRecord:
    """Keeps run.json up to date for this attempt at a job; the file keeps earlier attempts."""

    def __init__(self, path: epath.Path, *, data_dir: str, versions: Mapping[str, str], check: Callable[[], None]) -> None:
        """Args:
        path: the path of run.json.
        data_dir: the path of the data set, as the user gave it.
        versions: the versions of the libraries that compute, by name.
        check: called before each write; raises if the job directory belongs to another process by now.
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
            "versions": {"poster-trainer": importlib.metadata.version("poster-trainer"), **versions},
        }
        self.note()

    def note(self, **facts: Any) -> None:
        """Adds facts to this attempt's entry and writes the file.

        Args:
          **facts: JSON values by key; a key that exists is replaced.
        """
        self._record |= facts
        self._check()
        files.write_json(self._path, {"attempts": [*self._earlier, self._record]})

    def mark(self, event: str) -> None:
        """Notes the seconds from the start of this attempt until now, as `{event}_after_s`."""
        self.note(**{f"{event}_after_s": round(time.time() - self._started, 3)})
