"""Files and folders behave alike on a disk and in a bucket."""

import csv
import errno
import io
import json
import os
from pathlib import Path

import pytest
from etils import epath
from google.api_core import exceptions

from tests.support import buckets
from trainer.errors import LostService, UserError
from trainer.storage import files, objects, urls


@pytest.fixture
def bucket(monkeypatch):
    return buckets.in_memory(monkeypatch, "posters")


@pytest.fixture(params=["disk", "bucket"])
def root(request, bucket, tmp_path):
    return epath.Path(tmp_path / "films") if request.param == "disk" else epath.Path("gs://posters/films")


def test_a_written_file_is_found_again(root):
    files.make_folder(root)
    file = root / "a.bin"
    assert not files.exists(file)
    files.write(file, b"old")
    files.write(file, b"0123456789")
    assert files.exists(file)
    assert files.read(file) == b"0123456789"
    assert files.stat(file).size == 10
    assert files.checksum(file) == objects.crc32c([b"0123456789"])
    with files.open_seekable(file) as opened:
        opened.seek(7)
        assert opened.read(2) == b"78"
    assert [path.name for path in files.children(root)] == ["a.bin"]
    files.remove(file)
    files.remove(file)
    assert not files.exists(file)


def test_a_file_that_does_not_exist_is_told(root):
    for operation in (files.read, files.stat, files.checksum, files.open_seekable):
        with pytest.raises(FileNotFoundError):
            operation(root / "nothing")
    assert files.children(root / "nothing") == []
    assert not files.is_folder(root / "nothing")
    files.remove_folder(root / "nothing")


def test_a_folder_is_found_and_removed_with_all_below_it(root):
    for name in ("a/b", "a/deep/er/c", "d"):
        files.make_folder((root / name).parent)
        files.write(root / name, b"x")
    assert [path.name for path in files.children(root)] == ["a", "d"]
    assert files.is_folder(root / "a")
    assert not files.is_folder(root / "d")
    files.remove_folder(root / "a")
    assert [path.name for path in files.children(root)] == ["d"]
    assert files.exists(root / "d")


def test_a_file_or_a_folder_is_moved(root):
    for name in ("a/b", "a/deep/c", "d", "a2"):
        files.make_folder((root / name).parent)
        files.write(root / name, name.encode())
    files.move(root / "d", root / "old" / "d")
    files.move(root / "a", root / "old" / "a")
    assert [path.name for path in files.children(root)] == ["a2", "old"]
    assert {name: files.read(root / "old" / name) for name in ("a/b", "a/deep/c", "d")} == {
        "a/b": b"a/b",
        "a/deep/c": b"a/deep/c",
        "d": b"d",
    }


@pytest.mark.parametrize("name", ["d", "a"])
def test_a_file_or_a_folder_is_moved_into_a_folder_that_does_not_exist_yet(root, name):
    files.make_folder(root / "a")
    files.write(root / ("d" if name == "d" else "a/b"), b"x")
    files.move(root / name, root / "old" / "deep" / name)
    assert files.read(root / "old" / "deep" / ("d" if name == "d" else "a/b")) == b"x"


def test_an_empty_folder_of_a_disk_is_moved_too(tmp_path):
    (tmp_path / "a" / "empty").mkdir(parents=True)
    files.move(epath.Path(tmp_path / "a"), epath.Path(tmp_path / "old" / "a"))
    assert (tmp_path / "old" / "a" / "empty").is_dir()
    assert not (tmp_path / "a").exists()


def test_a_move_that_was_killed_is_repeated(root):
    for name in ("a/b", "a/c", "old/a/b"):
        files.make_folder((root / name).parent)
        files.write(root / name, b"x")
    files.move(root / "a", root / "old" / "a")
    assert not files.is_folder(root / "a")
    assert [path.name for path in files.children(root / "old" / "a")] == ["b", "c"]


def test_a_folder_is_copied_to_and_built_on_a_disk(root):
    files.make_folder(root / "deep")
    files.write(root / "deep" / "a", b"a")
    with files.copied_to_disk(root) as copy:
        assert (Path(copy) / "deep" / "a").read_bytes() == b"a"
    with files.built_on_disk(root / "built") as built:
        (built / "x").mkdir(parents=True)
        (built / "x" / "b").write_bytes(b"b")
    assert files.read(root / "built" / "x" / "b") == b"b"
    assert files.read(root / "deep" / "a") == b"a"


def test_a_disk_is_used_in_place(tmp_path):
    folder = epath.Path(tmp_path)
    with files.copied_to_disk(folder) as copy, files.built_on_disk(folder) as built:
        assert copy == built == folder


def test_a_bucket_is_used_through_a_temporary_folder_that_goes(bucket):
    bucket.put("gs://posters/films/", b"")
    bucket.put("gs://posters/films/a", b"a")
    with files.copied_to_disk(epath.Path("gs://posters/films")) as copy:
        assert [path.name for path in copy.iterdir()] == ["a"], "an object that marks a folder is no file"
    with files.built_on_disk(epath.Path("gs://posters/films")) as built:
        pass
    assert not copy.exists()
    assert not built.exists()


def test_a_written_file_replaces_the_old_one_at_once(tmp_path):
    """A reader that has opened the old content keeps it, and a kill leaves the old one: the content is never cut short."""
    file = epath.Path(tmp_path / "a.json")
    files.write(file, b"old")
    with files.open_seekable(file) as opened:
        files.write(file, b"new")
        assert opened.read() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_large_file_has_the_checksum_of_its_whole_content(tmp_path):
    content = bytes(range(256)) * (10 << 10)
    (tmp_path / "large").write_bytes(content)
    assert files.checksum(epath.Path(tmp_path / "large")) == objects.crc32c([content])


def test_only_cloud_storage_keeps_a_checksum_and_a_generation(bucket, tmp_path):
    generation = bucket.put("gs://posters/x", b"content")
    assert files.stat("gs://posters/x") == files.Stat(7, objects.crc32c([b"content"]), generation)
    (tmp_path / "x").write_bytes(b"content")
    assert files.stat(tmp_path / "x") == files.Stat(7, "", None)


def test_an_object_that_changes_while_it_is_read_is_not_read_on(bucket):
    generation = bucket.put("gs://posters/x", b"content")
    assert files.open_seekable("gs://posters/x", generation=generation).read() == b"content"
    with pytest.raises(files.objects.failures.Changed):
        files.open_seekable("gs://posters/x", generation=generation + 1)


def test_a_folder_of_a_bucket_needs_only_the_bucket(bucket):
    files.make_folder(epath.Path("gs://posters/films"))
    assert bucket.content == {}
    with pytest.raises(UserError, match="there is no bucket gs://nowhere"):
        files.make_folder(epath.Path("gs://nowhere/films"))


def test_a_folder_may_exist_already_but_not_as_a_file(tmp_path):
    for _ in range(2):
        files.make_folder(epath.Path(tmp_path / "a" / "b"))
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError):
        files.make_folder(epath.Path(tmp_path / "c"))


def test_of_several_failures_the_first_by_name_is_reported(bucket):
    for name in "abc":
        bucket.put(f"gs://posters/films/{name}", b"")

    def fail(request):
        if request.verb == "remove" and not request.uri.endswith("/a"):
            raise exceptions.ServiceUnavailable("")

    bucket.before = fail
    with pytest.raises(LostService, match=r"^gs://posters/films/b: "):
        files.remove_folder(epath.Path("gs://posters/films"))
    assert list(bucket.content) == ["gs://posters/films/b", "gs://posters/films/c"]


@pytest.mark.parametrize("name", ["../out", "/out", "a/../out", "a//b", "./a", "a/."])
def test_no_name_of_an_object_leads_out_of_its_folder(bucket, name):
    bucket.put(f"gs://posters/films/{name}", b"")
    with (
        pytest.raises(
            UserError, match=r"^gs://posters/films/.* has a name that leads out of its folder: remove it, or name another"
        ),
        files.copied_to_disk(epath.Path("gs://posters/films")),
    ):
        pass


def test_no_folder_of_a_mounted_bucket_is_renamed(tmp_path, monkeypatch):
    """Cloud Storage FUSE renames only files."""
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "b").write_text("x")

    def only_files(change):
        def changed(source, target, **options):
            if Path(source).is_dir():
                raise OSError(errno.EMFILE, "Too many open files", source)
            change(source, target, **options)

        return changed

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, only_files(getattr(os, name)))
    files.move(epath.Path(tmp_path / "a"), epath.Path(tmp_path / "old"))
    assert (tmp_path / "old" / "deep" / "b").read_text() == "x"
    assert not (tmp_path / "a").exists()


def test_json_is_readable_by_people_and_by_every_program(root):
    files.make_folder(root)
    files.write_json(root / "a.json", {"name": "Amélie", "scores": [1.5, None]})
    assert files.read(root / "a.json").decode() == '{\n  "name": "Amélie",\n  "scores": [\n    1.5,\n    null\n  ]\n}\n'
    assert files.read_json(root / "a.json") == {"name": "Amélie", "scores": [1.5, None]}
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            files.write_json(root / "b.json", number)
    assert not files.exists(root / "b.json")
    files.write(root / "c.json", b"{")
    with pytest.raises(json.JSONDecodeError):
        files.read_json(root / "c.json")


def test_a_csv_has_unix_lines_and_an_empty_field_for_what_a_row_lacks():
    content = files.csv_bytes(("id", "title"), [{"id": 1, "title": 'Amélie, "Paris"'}, {"id": 2}])
    assert content == 'id,title\n1,"Amélie, ""Paris"""\n2,\n'.encode()
    assert list(csv.DictReader(io.StringIO(content.decode()))) == [
        {"id": "1", "title": 'Amélie, "Paris"'},
        {"id": "2", "title": ""},
    ]


def test_a_flag_names_a_path_on_a_disk_or_in_a_bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.from_flag("--job_dir", "~/jobs") == epath.Path(tmp_path / "jobs")
    assert files.from_flag("--job_dir", "gs://posters/jobs") == epath.Path("gs://posters/jobs")
    with pytest.raises(UserError, match="'no bucket' cannot be a bucket's name"):
        files.from_flag("--job_dir", "gs://no bucket/jobs")


def test_a_url_of_another_service_is_refused_without_its_password():
    with pytest.raises(UserError, match=r"^--job_dir=s3://… is not supported: name a path on a disk, or gs://BUCKET/PATH$"):
        files.from_flag("--job_dir", "s3://user:password@bucket/jobs")


def test_cloud_storage_is_told_from_a_disk_and_from_other_services():
    assert files.in_cloud_storage("gs://posters/x")
    assert not files.in_cloud_storage("/gcs/posters/x")
    assert not files.in_cloud_storage("s3://posters/x")
    assert [urls.is_other_service(url) for url in ("gs://a/x", "/a", "https://a/x", "s3://a/x")] == [False, False, True, True]
    assert [urls.is_web(url) for url in ("http://a", "HTTPS://a", "ftp://a", "see http://a")] == [True, True, False, False]
