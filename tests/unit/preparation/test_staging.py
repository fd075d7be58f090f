"""A folder with a dataset.json is a whole data set, whatever happened on the way."""

import dataclasses
import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest
from etils import epath

from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Shard, Split
from trainer.errors import UserError
from trainer.preparation.staging import staged

OTHER_FILES = ("near_duplicates.csv", "preview.html", "rejects.csv")


def fill(stage: Path, mark: str, train_shards: int) -> None:
    """Writes a data set whose files all hold `mark`."""
    written = []
    for number in range(train_shards):
        name = manifest.shard_name("train", number, train_shards)
        (stage / name).write_text(mark)
        written.append(Shard(name, 1, len(mark), ""))
    for name in OTHER_FILES:
        (stage / name).write_text(mark)
    splits = {"train": Split(train_shards, {"Drama": 1}, tuple(written))}
    dataset = Dataset(epath.Path(stage), "", ("Drama",), 48, 32, "jpeg", splits)
    dataset = dataclasses.replace(dataset, fingerprint=manifest.fingerprint(dataset))
    (stage / "dataset.json").write_text(manifest.to_text(dataset))


def publish(output: Path, mark: str, train_shards: int, *, overwrite: bool = False) -> None:
    with staged(output, overwrite=overwrite) as stage:
        fill(stage, mark, train_shards)


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(train_shards: int) -> set[str]:
    return {"dataset.json", *OTHER_FILES, *(manifest.shard_name("train", n, train_shards) for n in range(train_shards))}


def test_what_was_built_appears_and_the_stage_goes(tmp_path: Path):
    publish(tmp_path / "new" / "folder", "one", 3)
    assert set(files(tmp_path)) == names(3)
    assert not (tmp_path / "new" / "folder" / ".incomplete").exists()


def test_a_finished_data_set_is_kept_without_overwrite(tmp_path: Path):
    publish(tmp_path, "one", 3)
    before = files(tmp_path)
    with pytest.raises(UserError, match="holds a finished data set: add --overwrite"):
        publish(tmp_path, "two", 3)
    assert files(tmp_path) == before


def test_overwriting_leaves_nothing_of_the_old_and_nothing_foreign_is_touched(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    publish(tmp_path, "one", 5)
    publish(tmp_path, "two", 2, overwrite=True)
    assert set(files(tmp_path)) == {*names(2), "notes.txt"}
    assert {text for name, text in files(tmp_path).items() if name.startswith("train")} == {"two"}


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path):
    publish(tmp_path, "one", 2)
    before = files(tmp_path)
    with pytest.raises(RuntimeError), staged(tmp_path, overwrite=True) as stage:
        fill(stage, "two", 3)
        raise RuntimeError
    assert files(tmp_path) == before


def test_foreign_files_with_the_names_of_shards_are_not_replaced(tmp_path: Path):
    foreign = tmp_path / manifest.shard_name("train", 1, 2)
    foreign.write_text("mine")
    with pytest.raises(UserError, match=r"holds train-00001-of-00002\.tfrecord, which no dataset.json there lists"):
        publish(tmp_path, "one", 2)
    assert files(tmp_path) == {foreign.name: "mine"}


def test_a_data_set_whose_dataset_json_is_damaged_can_be_overwritten(tmp_path: Path):
    publish(tmp_path, "one", 5)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="add --overwrite"):
        publish(tmp_path, "two", 5)
    publish(tmp_path, "two", 2, overwrite=True)
    assert set(files(tmp_path)) == {*names(2), "notes.txt"}
    assert manifest.load(tmp_path).split("train").examples == 2


@pytest.mark.parametrize(
    "plan",
    [
        '["../victim.txt"]',
        '["train-00000-of-00001.tfrecord", "notes.txt"]',
        '["/etc/passwd"]',
        '["../train-00000-of-00001.tfrecord"]',
        '["train-00000-of-00001.tfrecord\\n"]',
        '{"rejects.csv": 1}',
        '"rejects.csv"',
        "[1]",
        "[",
        "[" * 100_000,
        "\0",
    ],
    ids=lambda plan: plan[:40],
)
def test_a_plan_that_no_run_has_left_is_explained_and_removes_nothing(tmp_path: Path, plan: str):
    output = tmp_path / "dataset"
    (output / ".incomplete").mkdir(parents=True)
    (output / ".incomplete" / "publishing.json").write_text(plan)
    for name in ("notes.txt", "rejects.csv", "train-00000-of-00001.tfrecord", "../victim.txt"):
        (output / name).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"publishing\.json is damaged: remove .*\.incomplete and the shards beside it"):
        publish(output, "one", 1, overwrite=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("target", ["folder", "nowhere", "file"])
def test_a_stage_that_is_no_folder_is_explained_and_not_followed(tmp_path: Path, target: str):
    output, folder = tmp_path / "dataset", tmp_path / "folder"
    output.mkdir()
    folder.mkdir()
    (folder / "publishing.json").write_text('["rejects.csv"]')
    (output / "rejects.csv").write_text("mine")
    if target == "file":
        (output / ".incomplete").touch()
    else:
        (output / ".incomplete").symlink_to(tmp_path / target)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"\.incomplete is not the folder of an unfinished run: remove it"):
        publish(output, "one", 1, overwrite=True)
    assert files(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_explained(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is not a folder"):
            publish(path, "one", 1)


def test_a_second_process_is_refused(tmp_path: Path):
    with staged(tmp_path, overwrite=False) as stage:
        with pytest.raises(UserError, match="another process"):
            publish(tmp_path, "two", 1)
        fill(stage, "one", 1)
    assert "one" in files(tmp_path)["train-00000-of-00001.tfrecord"]


def test_a_mounted_bucket_without_locks_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for number in {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO}:

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, "no locks")

        monkeypatch.setattr(fcntl, "flock", refuse)
        output = tmp_path / str(number)
        if number == errno.EIO:
            with pytest.raises(OSError, match="no locks"):
                publish(output, "one", 1)
        else:
            publish(output, "one", 1)
            assert set(files(output)) == names(1)
            assert f"warning: --output={output} is on a file system without locks" in capsys.readouterr().err


def _die_after(calls: int, output: Path) -> None:
    """Replaces a data set of 3 shards by one of 2 and ends the process, as kill -9 would, at a change of the file system."""
    left = calls

    def counted(change):
        def changed(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return change(*arguments, **options)

        return changed

    for name in ("unlink", "replace", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    publish(output, "two", 2, overwrite=True)


def test_killed_at_any_change_of_a_file_the_rerun_ends_the_same(tmp_path: Path):
    undisturbed = tmp_path / "undisturbed"
    publish(undisturbed, "two", 2)
    fork = multiprocessing.get_context("fork")
    for calls in range(100):
        output = tmp_path / str(calls)
        publish(output, "one", 3)
        process = fork.Process(target=_die_after, args=(calls, output))
        process.start()
        process.join()
        if (output / "dataset.json").exists():
            listed = manifest.load(output).splits["train"].shards  # Which checks that every shard is there.
            mark = {3: "one", 2: "two"}[len(listed)]
            assert {(output / shard.name).read_text() for shard in listed} == {mark}
        publish(output, "two", 2, overwrite=True)
        assert files(output) == files(undisturbed)
        assert not (output / ".incomplete").exists()
        if process.exitcode == 0:
            assert calls > 5
            return
    raise AssertionError("the process never came to its end")
