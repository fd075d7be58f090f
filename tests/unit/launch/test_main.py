"""The command line of launch: its words and flags, and what it asks of a target."""

import json
import re

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import __main__ as launch
from launch.job import Location
from trainer.errors import UserError

PATHS = ("--data_dir=gs://b/d", "--job_dir=gs://b/j")


class Target:
    """A target that keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def run(self, job, *, wait, run_preflight):
        self.asked.append(("run", job, wait, run_preflight))

    def print_spec(self, job):
        self.asked.append(("print_spec", job))

    def list_jobs(self, location):
        self.asked.append(("list", location))

    def status(self, name, location):
        self.asked.append(("status", name, location))

    def logs(self, name, location):
        self.asked.append(("logs", name, location))

    def cancel(self, name, location):
        self.asked.append(("cancel", name, location))


@pytest.fixture
def do(monkeypatch):
    """Runs a command line; returns what it asked of the target."""
    target = Target()
    monkeypatch.setattr(launch.target, "get", lambda name: target if name in ("local", "kubernetes", "vertex") else None)
    # In this process other commands, whose tests ran before, have defined flags that they require.
    monkeypatch.setattr(flags.FlagValues, "validate_all_flags", lambda _: None)

    def do(*command_line):
        head, arguments = launch._split(["launch", *command_line])
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            words = flags.FLAGS(head)[1:]
            launch.main(words, arguments)
        asked, target.asked = target.asked, []
        return asked

    return do


def run(do, *words, arguments=PATHS):
    """Returns the job that a command line describes."""
    ((_, job, _, _),) = do("--target=local", *words, "--", *arguments)
    return job


def test_without_a_command_the_job_runs_after_its_checks_and_is_not_followed(do):
    for words in ((), ("run",)):
        ((command, job, wait, run_preflight),) = do(*words, "--target=kubernetes", "--", *PATHS)
        assert (command, wait, run_preflight) == ("run", False, True)
        assert (job.arguments, job.name, job.workers, job.restarts, job.spot) == (PATHS, "poster", 1, 3, False)


def test_a_job_can_be_followed_and_its_checks_skipped(do):
    assert do("--target=kubernetes", "--wait", "--", *PATHS)[0][2:] == (True, True)
    assert do("--target=kubernetes", "--skip_preflight", "--", *PATHS)[0][2:] == (False, False)


def test_a_dry_run_only_prints(do):
    ((command, job),) = do("--target=vertex", "--dry_run", "--name=film", "--", *PATHS)
    assert (command, job.name) == ("print_spec", "film")


def test_each_flag_sets_its_field(do):
    words = {
        "name": "film",
        "image": "i",
        "workers": 2,
        "accelerator": "nvidia-l4:2",
        "cpu": "4",
        "memory": "16Gi",
        "spot": True,
        "restarts": 5,
        "time_limit": 60.5,
        "service_account": "trainer",
        "namespace": "films",
        "project": "p",
        "region": "europe-west4",
        "tensorboard": "projects/p/locations/l/tensorboards/1",
        "network": "projects/1/global/networks/n",
        "jobset": True,
    }
    job = run(do, *(f"--{key}={value}" for key, value in words.items()), "--env=A=1", "--env=B=2", "--label=a=b")
    assert {key: getattr(job, key) for key in words} == words
    assert (job.env, job.labels) == ({"A": "1", "B": "2"}, {"a": "b"})
    assert words.keys() == launch._FIELDS.keys()


def test_flags_override_the_job_file_and_add_to_its_settings(do, tmp_path):
    path = tmp_path / "job.yaml"
    settings = {
        "workers": 2,
        "cpu": "4",
        "spot": "true",
        "env": {"A": "1", "B": "2"},
        "labels": {"a": "b"},
        "arguments": ["--epochs=2"],
    }
    path.write_text(json.dumps(settings))
    words = (f"--job_file={path}", "--workers=4", "--nospot", "--env=B=3", "--label=c=d")
    job = run(do, *words, arguments=(*PATHS, "--epochs=5"))
    assert (job.workers, job.cpu, job.spot) == (4, "4", False)
    assert (job.env, job.labels) == ({"A": "1", "B": "3"}, {"a": "b", "c": "d"})
    assert job.arguments == ("--epochs=2", *PATHS, "--epochs=5")
    assert job.training.epochs == 5  # The last one wins.


def test_a_file_of_flags_is_read_where_launch_runs(do, tmp_path):
    (tmp_path / "flags").write_text("--epochs=3\n")
    assert run(do, arguments=(*PATHS, f"--flagfile={tmp_path}/flags")).arguments == (*PATHS, "--epochs=3")


def test_only_the_first_double_dash_divides_the_command_line():
    assert launch._split(["launch", "a", "--", "b", "--", "c"]) == (["launch", "a"], ["b", "--", "c"])
    assert launch._split(["launch", "a"]) == (["launch", "a"], [])
    assert launch._split(["launch", "--"]) == (["launch"], [])


def test_other_commands_take_a_name_and_a_location(do, tmp_path):
    words = ("--target=vertex", "--project=p", "--region=r", "--namespace=n", "--workers=2")
    here = Location(project="p", region="r", namespace="n")
    assert do("list", *words) == [("list", here)]
    for command in ("status", "logs", "cancel"):
        assert do(command, "film-1", *words) == [(command, "film-1", here)]
    (tmp_path / "job.yaml").write_text("region: other\nproject: q\nworkers: 2")
    location = Location(project="q", region="r")
    assert do("list", "--target=vertex", f"--job_file={tmp_path}/job.yaml", "--region=r") == [("list", location)]


@pytest.mark.parametrize("target", ["local", "kubernetes"])
def test_a_description_is_checked_for_where_it_runs(do, target):
    words = (f"--target={target}", "--accelerator=nvidia-l4:4", "--dry_run", "--", *PATHS, "--batch_size=30")
    if target == "local":  # Its devices are not known.
        assert do(*words)
    else:
        with pytest.raises(UserError, match="--batch_size=30 does not divide among 4 replicas"):
            do(*words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("watch", "--target=local"), "'watch' is not a command of launch: use one of run, status, logs, cancel, list"),
        (
            ("run", "film", "--target=local"),
            "'film' is not a flag: write flags as --name=value, and those of trainer.task after --",
        ),
        (("list", "film", "--target=local"), "'film' is not a flag"),
        (("run",), "--target is missing: use one of local, kubernetes, vertex"),
        (("status", "film"), "--target is missing"),
        (("list", "--target=local", "--", "--epochs=3"), "'--epochs=3' is a flag of trainer.task, which list does not take"),
        (
            ("status", "--target=local"),
            "status takes the name of one job, got 0: choose one of python -m launch list --target=local",
        ),
        (("cancel", "a", "b", "--target=vertex"), "cancel takes the name of one job, got 2: choose one of python -m launch list"),
        (("logs", "a", "--target=local", "--dry_run"), "--dry_run applies to run, not to logs: leave it out"),
        (("list", "--target=local", "--dry_run"), "--dry_run applies to run, not to list: leave it out"),
        (("--target=local", "--env=A", "--", *PATHS), "--env=A has no value"),
        (("--target=local", "--label=a", "--", *PATHS), "--label=a has no value"),
    ],
)
def test_a_wrong_command_line_is_refused_before_the_target_is_asked(do, words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        do(*words)
