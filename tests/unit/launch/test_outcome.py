"""How the command ends as its job ended."""

import pytest

from launch.outcome import JobFailed, Outcome, job_exit_code
from trainer.errors import Stopped, UserError


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([7, 2, 75], 2),
        ([137, 75, 143], 137),
        ([7, 137, 75, 0], 137),
        ([75, 143], 143),
        ([143, 75, 0], 75),
        ([0, 0], 1),  # The service says that the job failed.
        ([], 1),
    ],
)
def test_a_failed_job_has_the_exit_code_of_the_worker_that_failed(codes, code):
    assert job_exit_code(codes) == code


@pytest.mark.parametrize(
    ("outcome", "kind", "code", "says"),
    [
        (
            Outcome(end="cancelled", reason="by hand"),
            Stopped,
            143,
            "job film-1 was cancelled (by hand); the same command resumes from its last backup",
        ),
        (Outcome(end="cancelled"), Stopped, 143, "job film-1 was cancelled; the same command resumes from its last backup"),
        (
            Outcome(end="timed out"),
            UserError,
            2,
            "job film-1 reached its --time_limit: raise it, then the same command resumes from the last backup",
        ),
        (
            Outcome(end="failed", exit_code=2, reason="exit 2"),
            UserError,
            2,
            "job film-1 needs a change by the user (exit 2): see the last line of its worker's log",
        ),
        (Outcome(end="failed", exit_code=7, reason="too bad"), JobFailed, 7, "job film-1 failed (too bad): see its output"),
        (Outcome(end="failed", exit_code=7, remedy="do this"), JobFailed, 7, "job film-1 failed: do this"),
    ],
)
def test_the_command_ends_as_the_job_ended(outcome, kind, code, says):
    with pytest.raises(kind) as caught:
        outcome.raise_unless_done("film-1")
    assert (type(caught.value), caught.value.exit_code, str(caught.value)) == (kind, code, says)


def test_a_job_that_is_done_is_no_error():
    Outcome(end="done").raise_unless_done("film-1")
    assert Outcome(end="done").exit_code == 0
