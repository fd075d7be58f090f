"""How a worker whose training is done waits: it stays until the chief has evaluated and exported."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.errors import LostPeer
from trainer.job import lock
from trainer.job.job_dir import JobDir
from trainer.process import heartbeat

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0

# A chief renews LOCK.json every ten seconds, but not while it starts anew as a process or waits to be restarted.
_SILENCE_SECONDS = 90.0


def wait_for_chief(directory: JobDir, *, chief: Mapping[str, Any] | None, is_saved: Callable[[], bool], timeout: float) -> None:
    """Waits for DONE.json: a worker that exited 0 earlier would count as finished, and could not be called back.

    Args:
      directory: the job directory.
      chief: the content of LOCK.json when the workers formed their cluster; None if this worker formed none.
      is_saved: returns whether the chief has saved the end of training.
      timeout: the seconds without a renewal of LOCK.json after which the chief counts as lost, at least 90.

    Raises:
      UserError: the chief has failed; the message is the chief's.
      LostPeer: the chief was silent for too long, or left before it had saved the end of training.
    """
    _log.info("training is done: waiting for the chief to evaluate and export")
    saved = False
    last_sign, last_seen = None, time.monotonic()
    while not directory.is_finished():
        directory.check_not_failed()
        saved = saved or is_saved()
        sign = lock.read(directory.lock_path)
        if not saved and not lock.is_same(sign, chief):
            raise LostPeer("the chief left before it had saved the end of training: all workers are needed to go on")
        if sign != last_sign:
            last_sign, last_seen = sign, time.monotonic()
            heartbeat.beat()
        elif time.monotonic() - last_seen > max(timeout, _SILENCE_SECONDS):
            raise LostPeer(f"{directory.lock_path} was not renewed by the chief for too long: restart the chief")
        time.sleep(_POLL_SECONDS)
    _log.info("the chief is done: its report is %s", directory.evaluation / "report.html")
