"""What trainer.task checks before it starts TensorFlow, and which worker does what."""

from typing import Any

import pytest

from tests.support import drawn
from trainer import config, task
from trainer.cluster import discovery
from trainer.cluster.discovery import Cluster
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.process import allocation, guarded, log, tensorflow_start
from trainer.training import run

ALONE = Cluster((), 0, "a test")
CHIEF, SECOND = (Cluster(("a:1", "b:1"), index, "a test") for index in (0, 1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return drawn.dataset(tmp_path_factory.mktemp("data"), train=12, validation=3, test=2, shard_count=4, encoding="raw")


class Command:
    """The command with everything replaced that would change this process."""

    def __init__(self, dataset, folder, monkeypatch):
        self.dataset, self.folder = dataset, folder
        self.calls: list[tuple[str, Any, Any]] = []
        self.cluster = ALONE
        self.data_dir = dataset.path
        self.options = {}

        def note(module, name):
            monkeypatch.setattr(module, name, lambda *arguments, **options: self.calls.append((name, arguments, options)))

        note(guarded, "under_guard")
        note(allocation, "keep_freed_memory")
        note(log, "configure")
        note(tensorflow_start, "start")
        note(run, "lead")
        note(run, "assist")
        monkeypatch.setattr(task, "StopRequest", lambda: "stop")
        monkeypatch.setattr(discovery, "discover", lambda: self.cluster)
        monkeypatch.setattr(config, "from_flags", self.job)
        monkeypatch.delenv("POSTER_JOB_ID", raising=False)

    def job(self):
        return TrainConfig(data_dir=str(self.data_dir), job_dir=str(self.folder), **self.options)

    def main(self, *arguments, cluster=ALONE, **options):
        """Runs the command, and returns the names of what it called."""
        self.calls.clear()
        self.cluster, self.options = cluster, options
        task.main(list(arguments))
        return [name for name, _, _ in self.calls]


@pytest.fixture
def command(dataset, tmp_path, monkeypatch):
    return Command(dataset, tmp_path / "job", monkeypatch)


@pytest.mark.parametrize(("cluster", "role"), [(ALONE, "lead"), (CHIEF, "lead"), (SECOND, "assist")])
def test_the_chief_leads_and_the_others_assist(command, dataset, cluster, role):
    started = ["under_guard", "keep_freed_memory", "configure", "start"]
    assert command.main(cluster=cluster, log_format="json") == [*started, role]
    assert command.calls[2][1:] == (("json",), {"worker": cluster.index})
    job, found, directory, own, stop = command.calls[-1][1]
    assert job == command.job()
    assert (found, own, stop) == (dataset, cluster, "stop")
    assert str(directory.path) == str(command.folder)
    assert command.folder.is_dir()


def test_the_chief_says_what_it_trains_on_and_where(command, dataset, caplog):
    caplog.set_level("INFO", logger="trainer")
    command.main()
    assert caplog.messages == [
        f"data set: {dataset.path}, 12 films in train, 3 films in validation, 2 films in test, 3 genres, images of 16 x 16 "
        f"pixels (raw), fingerprint {dataset.fingerprint[:12]}",
        f"job directory: {command.folder}",
    ]
    caplog.clear()
    command.main(cluster=SECOND)
    assert caplog.messages == []


def refused(command, match, *arguments, **options):
    with pytest.raises(UserError, match=match):
        command.main(*arguments, **options)
    assert "start" not in [name for name, _, _ in command.calls], "before TensorFlow is imported"
    assert not command.folder.exists()


def test_a_word_that_is_no_flag_is_refused(command):
    refused(command, r"^'epochs=3' is not a flag of trainer.task: write options as --name=value$", "epochs=3", "x")


def test_fresh_on_several_workers_needs_a_name_for_the_launch(command, monkeypatch):
    for cluster in (CHIEF, SECOND):
        refused(command, "^--fresh on several workers needs POSTER_JOB_ID: ", cluster=cluster, fresh=True)
    assert "lead" in command.main(fresh=True)
    assert "lead" in command.main(cluster=CHIEF)
    monkeypatch.setenv("POSTER_JOB_ID", "films")
    assert "lead" in command.main(cluster=CHIEF, fresh=True)


def test_eager_steps_are_for_one_worker(command):
    for cluster in (CHIEF, SECOND):
        refused(
            command,
            "^--run_eagerly is for one worker, because collective operations need graphs: ",
            cluster=cluster,
            run_eagerly=True,
        )
    assert "lead" in command.main(run_eagerly=True)


def test_a_folder_that_is_no_data_set_is_refused(command, tmp_path):
    command.data_dir = tmp_path
    refused(command, "is not a data set, it has no dataset.json")
