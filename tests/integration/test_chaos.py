"""A job on two workers that loses workers in every phase ends as one that nothing disturbed."""

import re
import signal

from tests.chaos import Chaos, Strike, one_a_phase, struck
from tests.chaos_worker import EPOCH
from tests.jobs import assert_equal


def test_killed_once_in_each_phase_and_asked_to_stop(data_dir, tmp_path):
    whole = Chaos(tmp_path / "whole", workers=2)
    struck(whole, data_dir, (), "--model=cnn")
    job = Chaos(tmp_path / "struck", workers=2)
    kills = one_a_phase((("worker 1",), ("worker 0",), ("guard 1",), ("worker 0", "worker 1")))
    stop = Strike(EPOCH, ("guard 1",), signal.SIGTERM)
    struck(job, data_dir, (kills[0], stop, *kills[1:]), "--model=cnn")
    assert_equal(whole.job_dir, job.job_dir)
    # Asked to stop, the workers save the same step, and all go on with it.
    saved = re.findall(r"the state is saved at step (\d+)", job.log.read_text())
    assert len(saved) == 2
    assert f"resuming at step {saved[0]} of" in job.log.read_text()
    assert len(set(saved)) == 1
