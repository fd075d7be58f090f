"""How the benchmarks use their own processes and files."""

import contextlib
import io
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.lib import comparison, films, steps
from trainer.dataset import manifest

DRAWN = 40


def processor_seconds():
    """Returns a contender with always busy threads, whose value is the processor time of its process."""
    import threading

    def work():
        while True:
            pass

    threading.Thread(target=work, daemon=True).start()
    return time.process_time


def process_id():
    """Returns a contender whose value is its process id."""
    return lambda: float(os.getpid())


def test_each_contender_has_its_own_process():
    with comparison.apart((process_id, ()), (process_id, ())) as measures:
        one, other = (measure() for measure in measures)
        assert len({one, other, float(os.getpid())}) == 3
        assert measures[0]() == one


def test_a_contender_is_stopped_while_others_are_measured():
    with comparison.apart((processor_seconds, ())) as (measure,):
        before = measure()
        time.sleep(2)
        assert measure() - before < 1


def test_the_steps_of_a_job_are_seen_and_the_job_is_ended():
    program = "import os, time; os.write(int(os.environ['POSTER_GUARD_FD']), b'.s.ss'); time.sleep(600)"
    with steps.job((sys.executable, "-c", program)) as job:
        moments = job.steps(3)
    assert len(moments) == 3
    assert job.began < moments[0] == moments[2]


def test_a_failed_job_is_reported_with_its_output():
    with (
        steps.job((sys.executable, "-c", "raise SystemExit('no such thing')")) as job,
        pytest.raises(RuntimeError, match="no such"),
    ):
        job.steps(1)


def test_drawn_posters_can_be_prepared_and_are_as_large_as_real_ones(tmp_path):
    drawn = films.draw(tmp_path / "films", DRAWN)
    assert np.mean([Path(file).stat().st_size for file in drawn.files()]) == pytest.approx(33_000, rel=0.1)
    films.prepare(drawn, tmp_path / "data", "--height=32", "--width=32")
    dataset = manifest.load(tmp_path / "data")
    assert sum(split.examples for split in dataset.splits.values()) == DRAWN


def test_the_tables_of_scaling_md_are_what_the_program_prints():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        scaling.main([])
    text = Path(scaling.__file__).with_name("SCALING.md").read_text()
    for table in printed.getvalue().strip().split("\n\n"):
        assert table in text
