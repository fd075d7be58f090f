"""User errors in trainer.task and trainer.evaluate: one line, exit code 2, and nothing lost."""

import json
import os
import shutil
import subprocess

import pytest

from tests.support import drawn
from tests.support.commands import refusal, run
from tests.support.jobs import train


def test_a_wrong_flag_is_an_error(data_dir, tmp_path):
    assert "Unknown command line flag 'epoch'" in refusal("trainer.task", "--epoch=3")
    assert "'3' is not a flag" in refusal(*train(data_dir, tmp_path / "job"), "3")
    assert "--early_stopping" in run("trainer.task", "--help").stdout


def test_an_empty_split_is_an_error_before_training(tmp_path):
    drawn.dataset(tmp_path / "data", train=40, validation=2, test=0, shard_count=1)
    line = refusal(*train(tmp_path / "data", tmp_path / "job"))
    assert "'test'" in line
    assert not (tmp_path / "job" / "checkpoints").exists()


def test_a_folder_without_a_data_set_is_an_error(tmp_path):
    assert f"{tmp_path} is not a data set" in refusal(*train(tmp_path, tmp_path / "job"))
    assert not (tmp_path / "job").exists()


def test_a_damaged_shard_is_named(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = tmp_path / "data" / "train-00003-of-00008.tfrecord"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 0xFF
    shard.write_bytes(content)
    line = refusal(*train(tmp_path / "data", tmp_path / "job"))
    assert "train-00003-of-00008.tfrecord is damaged, because its CRC32C is not the one in dataset.json" in line
    assert "00004" not in line
    told = json.loads((tmp_path / "job" / "FAILED.json").read_text())
    assert "train-00003-of-00008.tfrecord" in told["reason"]


def test_a_directory_of_another_job_is_an_error(data_dir, job_dir):
    line = refusal(*train(data_dir, job_dir, "--batch_size=32", "--seed=5"))
    assert "holds a job with batch_size=16 (not 32), seed=0 (not 5)" in line
    assert (job_dir / "DONE.json").exists()
    assert not (job_dir / "FAILED.json").exists()


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_operation(data_dir, tmp_path):
    options = ("--model=cnn", "--learning_rate=1e30", "--warmup_epochs=0", "--debug_nans")
    assert "a value is not finite" in refusal(*train(data_dir, tmp_path / "job", *options))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount the small disk")
def test_a_full_disk_is_an_error(data_dir, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert "space" in refusal(*train(data_dir, disk / "job")).lower()
        assert not (disk / "job" / "DONE.json").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_is_told_of_a_csv_shows_no_secret_of_its_urls(tmp_path):
    url = "http://user:SECRETPW@127.0.0.1:9/{}.jpg?X-Amz-Signature=TOPSECRET"
    rows = "".join(f"{url.format(film)},Drama|Comedy\n" for film in range(4))
    (tmp_path / "films.csv").write_text(f"poster_url,genres\n{rows}")
    options = (f"--csv={tmp_path / 'films.csv'}", f"--output={tmp_path / 'data'}", f"--cache_dir={tmp_path / 'cache'}")
    done = run("trainer.prepare", *options, code=2)
    told = done.stdout + done.stderr
    assert "http://127.0.0.1:9/0.jpg" in told
    assert "SECRET" not in told
