"""A job that is killed, stopped or continued ends as an undisturbed one."""

import os
import shutil
import signal

import pytest
import tensorflow as tf

from tests.support.commands import ENVIRONMENT, interrupt, refusal, run, start
from tests.support.jobs import STEPS_PER_EPOCH, assert_equal, history, mirrored, train
from trainer.model import backbones


def test_a_job_killed_at_any_moment_ends_as_an_undisturbed_one(job_dir, data_dir, tmp_path):
    """Here a launcher restarts the job, which must not start over either; the other tests restart it as a user does."""
    folder, environment = tmp_path / "killed", {**ENVIRONMENT, "POSTER_JOB_ID": "launch-1"}
    command = train(data_dir, folder, "--fresh")

    def backed_up(step):
        return lambda: (folder / "backup" / f"ckpt-{step}.index").exists()

    moments = {
        "within an epoch": backed_up(6),
        "at an epoch's end": backed_up(STEPS_PER_EPOCH),
        "after an epoch": lambda: (folder / "checkpoints" / "last" / f"ckpt-{2 * STEPS_PER_EPOCH}.index").exists(),
        "while exporting": lambda: (folder / "model").exists(),
    }
    for when in moments.values():
        assert interrupt(start(*command, env=environment), signal.SIGKILL, when=when) == -signal.SIGKILL
        assert not (folder / "DONE.json").exists()
    ended = run(*command, env=environment)
    assert "nothing is left to train" in ended.stderr
    assert not (folder / "old-1").exists()
    assert_equal(job_dir, folder)


def test_a_job_asked_to_stop_saves_its_step_and_resumes_there(job_dir, data_dir, tmp_path):
    folder = tmp_path / "stopped"
    process = start(*train(data_dir, folder, "--backup_steps=1000"))
    history_begun = folder / "history.csv"
    assert interrupt(process, signal.SIGTERM, when=history_begun.exists) == 143
    ended = run(*train(data_dir, folder, "--backup_steps=1000"))
    assert "restored step" in ended.stderr
    assert_equal(job_dir, folder)


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")
def test_three_replicas_in_half_precision_resume_exactly(data_dir, tmp_path):
    command = ("--epochs=1", "--precision=mixed_float16", "--batch_size=15")
    run(*mirrored(data_dir, tmp_path / "whole", *command, replicas=3))
    killed = tmp_path / "killed"
    interrupt(
        start(*mirrored(data_dir, killed, *command, replicas=3)), signal.SIGKILL, when=(killed / "backup" / "ckpt-6.index").exists
    )
    assert "restored step" in run(*mirrored(data_dir, killed, *command, replicas=3)).stderr
    assert_equal(tmp_path / "whole", killed)


@pytest.mark.skipif("POSTER_LONG" not in os.environ, reason="part of make chaos")
def test_a_pretrained_job_resumes_exactly_without_its_weights_file(data_dir, tmp_path):
    weights, killed = tmp_path / "lite.weights.h5", tmp_path / "killed"
    command = ("--model=efficientnet_lite0", f"--weights={weights}", "--freeze_epochs=0.5", "--epochs=1")
    assert "does not exist" in refusal(*train(data_dir, killed, *command))
    assert not (killed / "config.json").exists()
    backbones.BACKBONES["efficientnet_lite0"].build(32, 32).save_weights(weights)
    run(*train(data_dir, tmp_path / "whole", *command))
    # It resumes at step 3 (the backbone is frozen until step 5) or at step 6.
    interrupt(start(*train(data_dir, killed, *command)), signal.SIGKILL, when=(killed / "backup" / "ckpt-6.index").exists)
    weights.unlink()
    assert "restored step" in run(*train(data_dir, killed, *command)).stderr
    assert_equal(tmp_path / "whole", killed)


def test_a_damaged_backup_is_named_and_the_one_before_it_used_and_without_one_the_job_does_not_start_over(
    job_dir, data_dir, tmp_path
):
    folder = tmp_path / "damaged"
    interrupt(start(*train(data_dir, folder)), signal.SIGKILL, when=(folder / "backup" / "ckpt-9.index").exists)
    whole = {path: path.read_bytes() for path in folder.rglob("ckpt-*.data-*")}
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    assert "cannot be read, and there is no other state" in refusal(*train(data_dir, folder))
    newest = tf.train.latest_checkpoint(str(folder / "backup"))
    for path, content in whole.items():
        if not path.is_relative_to(folder / "backup") or not str(path).startswith(f"{newest}."):
            path.write_bytes(content)
    (folder / "FAILED.json").unlink()
    ended = run(*train(data_dir, folder))
    assert f"{newest} cannot be read (" in ended.stderr
    assert "restored step" in ended.stderr
    assert_equal(job_dir, folder)


def test_more_epochs_continue_a_finished_job(job_dir, data_dir, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(job_dir, folder)
    ended = run(*train(data_dir, folder, "--epochs=4"))
    assert "restored step 30 of 40" in ended.stderr
    assert [row["epoch"] for row in history(folder)] == ["1", "2", "3", "4"]
    assert history(folder)[:3] == history(job_dir)
