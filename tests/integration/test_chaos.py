"""A job that loses workers ends as an undisturbed one. `make chaos` tests this in every phase."""

import re
import signal

import pytest

from tests.support.chaos import SHORT, Chaos, Strike, struck
from tests.support.chaos_worker import EPOCH, EVALUATION, START, TRAINING_END, VALIDATION
from tests.support.jobs import assert_equal


def test_a_job_killed_in_five_phases_and_asked_to_stop_ends_the_same(pair_dir, data_dir, tmp_path):
    job = Chaos(tmp_path / "struck", workers=2)
    strikes = (
        Strike(START, ("worker 1",)),
        Strike(EPOCH, ("guard 1",), signal.SIGTERM),
        Strike(VALIDATION, ("guard 1",)),
        Strike(TRAINING_END, ("worker 0",)),
        Strike(EVALUATION, ("worker 0", "worker 1")),
    )
    struck(job, data_dir, strikes, *SHORT)
    assert_equal(pair_dir, job.job_dir)
    # Asked to stop, all workers save the same step, and resume from it.
    saved = re.findall(r"the state is saved at step (\d+)", job.log.read_text())
    assert len(saved) == 2
    assert f"restored step {saved[0]} of" in job.log.read_text()
    assert len(set(saved)) == 1
    # Within an epoch the loss is the mean over all replicas, as at its end.
    within = {int(step): float(loss) for step, loss in re.findall(r" step (\d+) of \d+: loss ([\d.]+)", job.log.read_text())}
    ends = [(int(step), float(loss)) for step, loss in re.findall(r", step (\d+): loss ([\d.]+)", job.log.read_text())]
    assert ends
    assert all(within[step - 1] == pytest.approx(loss, rel=0.2) for step, loss in ends if step - 1 in within)
    assert any(step - 1 in within for step, _ in ends)
