"""The file of a lock: only one of several takers gets it, on a disk and in a bucket."""

import errno
import io
import os

import pytest
from etils import epath
from google.api_core import exceptions

from tests.support import buckets
from trainer.job import lock_file

URI = "gs://posters/jobs/LOCK.json"


@pytest.fixture
def bucket(monkeypatch):
    return buckets.in_memory(monkeypatch, "posters")


@pytest.fixture(params=["disk", "bucket"])
def path(request, bucket, tmp_path):
    return epath.Path(tmp_path / "LOCK.json" if request.param == "disk" else URI)


@pytest.fixture
def two(path):
    """The lock file in two processes."""
    return lock_file.at(path), lock_file.at(path)


def test_only_one_of_two_that_find_no_lock_gets_it(two):
    one, other = two
    assert one.read() is other.read() is None
    assert one.take(b"one")
    assert not other.take(b"other")
    assert one.read() == b"one"


def test_only_one_of_two_that_find_an_old_lock_gets_it(path, two):
    one, other = two
    assert lock_file.at(path).take(b"old")
    assert one.read() == other.read() == b"old"
    assert one.take(b"one")
    assert not other.take(b"other")
    assert one.read() == b"one"


def test_a_lock_that_was_removed_since_it_was_read_is_taken_or_read_anew(path, two):
    one, other = two
    assert other.take(b"old")
    assert one.read() == b"old"
    other.read()
    other.remove()
    assert other.read() is None
    # A bucket refuses, because the object is no longer as it was read.
    assert one.take(b"one") is (one.read() == b"one")
    assert one.read() in (b"one", None)


def test_an_owner_renews_and_removes_its_lock(two):
    one, other = two
    one.read()
    one.take(b"one")
    for content in (b"one, later", b"one, still later"):
        one.renew(content)
        assert other.read() == content
    one.remove()
    assert other.read() is None
    one.remove()


def test_a_lock_in_a_bucket_that_another_owner_has_taken_is_neither_renewed_nor_removed(bucket):
    one, other = lock_file.at(epath.Path(URI)), lock_file.at(epath.Path(URI))
    one.read()
    one.take(b"one")
    other.read()
    other.take(b"other")
    one.renew(b"one, later")
    assert bucket.content[URI] == b"other"
    assert one.take(b"one, much later"), "the refused renewal has read the present lock, which nobody else changed since"
    other.read()
    other.take(b"other")
    one.remove()
    assert bucket.content[URI] == b"other"


def test_a_lock_in_a_bucket_is_taken_even_if_the_answer_was_lost(bucket):
    """Google's client asks again, and the second request finds what the first one wrote."""

    def lose(request):
        if request.verb == "write":
            bucket.before = lambda _: None
            bucket.put(URI, b"mine")
            raise exceptions.PreconditionFailed("")

    bucket.before = lose
    file = lock_file.at(epath.Path(URI))
    assert file.read() is None
    assert file.take(b"mine")
    file.renew(b"mine, later")
    assert bucket.content[URI] == b"mine, later"


def test_an_old_lock_on_a_disk_leaves_no_other_file(tmp_path):
    (tmp_path / "LOCK.json").write_bytes(b"old")
    file = lock_file.at(epath.Path(tmp_path / "LOCK.json"))
    file.read()
    assert file.take(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["LOCK.json"]


def test_an_old_lock_that_disappears_while_it_is_taken_is_taken(tmp_path, monkeypatch):
    (tmp_path / "LOCK.json").write_bytes(b"old")
    file = lock_file.at(epath.Path(tmp_path / "LOCK.json"))
    file.read()
    replace = type(epath.Path(tmp_path)).replace

    def removed_first(path, target):
        os.unlink(path)  # noqa: PTH108 (the method of the path is what is replaced here)
        return replace(path, target)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", removed_first)
    assert file.take(b"new")
    assert (tmp_path / "LOCK.json").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC])
def test_on_a_mounted_bucket_the_later_of_two_machines_does_not_get_the_lock(tmp_path, monkeypatch, number):
    """Cloud Storage FUSE creates a new file when it is closed, and only then finds that it exists."""
    file = lock_file.at(epath.Path(tmp_path) / "LOCK.json")
    assert file.read() is None

    class Failing(io.BytesIO):
        def close(self):
            super().close()
            raise OSError(number, "failed")

    monkeypatch.setattr("builtins.open", lambda *arguments, **options: Failing())
    if number == errno.ESTALE:
        assert not file.take(b"mine")
    else:
        with pytest.raises(OSError, match="failed"):
            file.take(b"mine")
