"""What a worker does that has nothing left to train: it stays until the chief has evaluated and exported."""

import logging
import time
from collections.abc import Callable

from trainer import heartbeat, lock
from trainer.errors import LostPeer
from trainer.job_dir import JobDir

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def wait_for_chief(directory: JobDir, *, is_saved: Callable[[], bool], timeout: float) -> None:
    """Waits for DONE.json: a worker that left earlier would be counted as finished, and could not be called back.

    Args:
      directory: the job's.
      is_saved: whether the chief has saved the end of training.
      timeout: seconds without a sign of life from the chief in LOCK.json.

    Raises:
      UserError: the chief has failed, with its words.
      LostPeer: it was silent for too long, or died before it had saved the end of training.
    """
    _log.info("training is done; the chief evaluates and exports")
    saved, chief = False, None
    last_sign, last_seen = None, time.monotonic()
    while not directory.is_finished():
        directory.check_not_failed()
        saved = saved or is_saved()
        sign = lock.read(directory.lock_path)
        if sign is not None and not saved:
            attempt = {**sign, "heartbeat": None}
            if chief not in (None, attempt):
                raise LostPeer("the chief had not saved the end of training and has begun again, which takes all workers")
            chief = attempt
        if sign != last_sign:
            last_sign, last_seen = sign, time.monotonic()
            heartbeat.beat()
        elif time.monotonic() - last_seen > timeout:
            raise LostPeer(f"{directory.lock_path} shows no sign of life from the chief for {timeout:.0f} s: restart it")
        time.sleep(_POLL_SECONDS)
    _log.info("the chief is done")
