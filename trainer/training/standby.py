"""What a worker does that has nothing left to train: it stays until the chief has evaluated and exported."""

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

# A chief shows signs of life every ten seconds, but not while it begins anew or waits to be started again.
_SILENCE_SECONDS = 90.0


def wait_for_chief(directory: JobDir, *, chief: Mapping[str, Any] | None, is_saved: Callable[[], bool], timeout: float) -> None:
    """Waits for DONE.json: a worker that left earlier would be counted as finished, and could not be called back.

    Args:
      directory: the job's.
      chief: what LOCK.json said when the workers came together.
      is_saved: whether the chief has saved the end of training.
      timeout: seconds without a sign of life from the chief in LOCK.json; a minute and a half at least.

    Raises:
      UserError: the chief has failed, with its words.
      LostPeer: it was silent for too long, or died before it had saved the end of training.
    """
    _log.info("training is done; the chief evaluates and exports")
    saved = False
    last_sign, last_seen = None, time.monotonic()
    while not directory.is_finished():
        directory.check_not_failed()
        saved = saved or is_saved()
        sign = lock.read(directory.lock_path)
        if not saved and not lock.is_same(sign, chief):
            raise LostPeer("the chief left before it had saved the end of training: it takes all workers to go on")
        if sign != last_sign:
            last_sign, last_seen = sign, time.monotonic()
            heartbeat.beat()
        elif time.monotonic() - last_seen > max(timeout, _SILENCE_SECONDS):
            raise LostPeer(f"{directory.lock_path} shows no sign of life from the chief: restart it")
        time.sleep(_POLL_SECONDS)
    _log.info("the chief is done")
