"""A job's description in a YAML file."""

import re

import pytest

from launch import job_file
from launch.job import Job
from trainer.errors import UserError

FILE = """
name: film
image: registry/film:1
workers: 2
accelerator: nvidia-l4:1
cpu: 4
memory: 16Gi
env: {COLOUR: red, DEPTH: 3}
labels: {team: films}
spot: true
time_limit: 3600
arguments: [--data_dir=gs://b/d, --job_dir=gs://b/j, --epochs=2]
"""


def read(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)
    return job_file.read(str(tmp_path / "job.yaml"))


def test_a_job_file_has_the_fields_as_keys(tmp_path):
    job = Job(**read(tmp_path, FILE))
    assert (job.name, job.workers, job.cpu, job.spot, job.time_limit) == ("film", 2, "4", True, 3600)
    assert (job.env, job.training.epochs) == ({"COLOUR": "red", "DEPTH": "3"}, 2)
    assert read(tmp_path, "") == {}
    assert read(tmp_path, "image:") == {}


def test_text_in_a_job_file_is_kept_as_written(tmp_path):
    text = "env: {A: 010, B: 1.10, C: 12:30:00, D: yes, E: 2024-13-45, F: 1e3}\ncpu: 010\nworkers: 2\ntime_limit: 1e6\nspot: true"
    found = read(tmp_path, text)
    assert found["env"] == {"A": "010", "B": "1.10", "C": "12:30:00", "D": "yes", "E": "2024-13-45", "F": "1e3"}
    assert (found["cpu"], found["workers"], found["time_limit"], found["spot"]) == ("010", 2, 1e6, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker: 2", "'worker' is not a field of a job: did you mean workers?"),
        ("xyz: 2", "'xyz' is not a field of a job: choose one of arguments, name"),
        ("target: local", "'target' is not a field of a job"),
        ("- a", "must be a mapping"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "must be a mapping"),
        ("workers: two", "workers must be a number, got 'two'"),
        ("workers: true", "workers must be a number, got 'true'"),
        ("workers: 1.5", "workers must be a number, got '1.5'"),
        ("spot: 1", "spot must be true or false, got '1'"),
        ("arguments: --epochs=2", "arguments must be a list"),
        ("arguments: [[3]]", "arguments must be a list"),
        ("env: [A=b]", "env must be a mapping"),
        ("env: {A: [hunter2]}", "env must be a mapping of strings"),
        ("workers: 2\nworkers: 3", "'workers' appears twice"),
        ("[" * 3000, "nested too deeply"),
        (f"workers: {'9' * 5000}", "must be a number"),
        (
            f"arguments: [--data_dir=d, --job_dir=j]\ntime_limit: 1{'0' * 400}",
            "--time_limit must be above 0 and at most 31622400 seconds (a year), got inf",
        ),
        ("image: [a]", "image must be a string"),
        ("workers: 0\narguments: [--data_dir=d, --job_dir=j]", "--workers must be at least 1"),
    ],
)
def test_a_wrong_job_file_is_an_error_in_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=re.escape(says)):
        Job(**read(tmp_path, text))


def test_a_missing_job_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--job_file=.*/none.yaml cannot be read \(No such file"):
        job_file.read(str(tmp_path / "none.yaml"))
