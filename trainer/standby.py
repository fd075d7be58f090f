"""What a worker does that has nothing left to train: it stays until the chief has evaluated and exported."""

import logging
import time

from trainer import heartbeat, lock
from trainer.errors import LostPeer
from trainer.job_dir import JobDir

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def wait_for_chief(directory: JobDir, *, timeout: float) -> None:
    """Waits for DONE.json: a worker that left earlier would be counted as finished, and could not be called back.

    Args:
      directory: the job's.
      timeout: seconds without a sign of life from the chief in LOCK.json.

    Raises:
      UserError: the chief has failed, with its words.
      LostPeer: it was silent for too long.
    """
    _log.info("training is done; the chief evaluates and exports")
    last_sign, last_seen = None, time.monotonic()
    while not directory.is_finished():
        directory.check_not_failed()
        if (sign := lock.read(directory.lock_path)) != last_sign:
            last_sign, last_seen = sign, time.monotonic()
            heartbeat.beat()
        elif time.monotonic() - last_seen > timeout:
            raise LostPeer(f"{directory.lock_path} shows no sign of life from the chief for {timeout:.0f} s: restart it")
        time.sleep(_POLL_SECONDS)
    _log.info("the chief is done")
