"""How a job ends, and how the launcher ends because of it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from trainer.errors import EXIT_DONE, EXIT_LOST_PEER, EXIT_STOPPED, EXIT_USER_ERROR, Ended, Stopped, UserError


class JobFailed(Ended):
    """A job failed; the command exits with the exit code of the worker that failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def job_exit_code(codes: Sequence[int]) -> int:
    """Returns the exit code of a failed job: 2 if a worker exited 2, else the code of the last crash.

    Args:
      codes: the exit codes of the job's workers, the oldest first.
    """
    if EXIT_USER_ERROR in codes:
        return EXIT_USER_ERROR
    failures = [code for code in codes if code != EXIT_DONE]
    # The other workers lost the one that crashed (75), and were then asked to stop (143).
    crashes = [code for code in failures if code not in (EXIT_LOST_PEER, EXIT_STOPPED)]
    return (crashes or failures or [1])[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job on Kubernetes or Vertex AI ended.

    Attributes:
      end: how the job ended.
      reason: the service's explanation, or "".
      exit_code: the exit code of a failed job; 0 for other ends.
      remedy: how the user proceeds after a crash.
    """

    end: Literal["done", "failed", "cancelled", "timed out"]
    reason: str = ""
    exit_code: int = EXIT_DONE
    remedy: str = "see its output"

    def raise_unless_done(self, name: str) -> None:
        """Ends the command as the job ended.

        Args:
          name: the job's name.

        Raises:
          Stopped: the job was cancelled.
          UserError: the job reached its time limit, or a worker exited 2.
          JobFailed: the job failed for another reason.
        """
        why = f" ({self.reason})" if self.reason else ""
        match self.end:
            case "cancelled":
                raise Stopped(f"job {name} was cancelled{why}; the same command resumes from its last backup")
            case "timed out":
                raise UserError(
                    f"job {name} reached its --time_limit: raise it, then the same command resumes from the last backup"
                )
            case "failed" if self.exit_code == EXIT_USER_ERROR:
                raise UserError(f"job {name} needs a change by the user{why}: see the last line of its worker's log")
            case "failed":
                raise JobFailed(f"job {name} failed{why}: {self.remedy}", self.exit_code)
