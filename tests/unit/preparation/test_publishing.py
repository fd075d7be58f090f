"""What a run on Cloud Storage leaves behind, and whose lock it leaves alone."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import LostPeer, LostService, Stopped, UserError
from trainer.preparation import publishing
from trainer.storage import objects

MARK = "gs://bucket/data/.preparing.json"
SHARD = "gs://bucket/data/train-00000-of-00001.tfrecord"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What is in a bucket."""
    content = {MARK: b"ours", SHARD: b"shard"}
    monkeypatch.setattr(objects, "remove", lambda uri: content.pop(uri, None))
    return content


def abandon(bucket: dict[str, bytes], error: BaseException) -> bool:
    """Lets a run fail; returns whether it has left its lock."""
    left = []

    class Lock:
        def check(self) -> None:
            if bucket[MARK] != b"ours":
                raise LostPeer("gone")

        def leave(self) -> None:
            left.append(True)

    contents = publishing._Contents({SHARD.rpartition("/")[2]: objects.Object(SHARD, 5, "", 1)}, None)
    lock: Any = Lock()
    publishing._Bucket("gs://bucket/data", Path("/nowhere"), lock, contents).abandon(error)
    return bool(left)


@pytest.mark.parametrize("error", [LostService(""), LostPeer(""), Stopped(""), KeyboardInterrupt(), OSError(errno.EIO, "")])
def test_a_run_that_is_to_be_started_again_leaves_its_shards_and_its_lock(bucket, error):
    assert abandon(bucket, error)
    assert bucket == {MARK: b"ours", SHARD: b"shard"}


@pytest.mark.parametrize("error", [UserError(""), ValueError(), OSError(errno.ENOSPC, "")])
def test_a_run_that_would_end_the_same_way_leaves_nothing(bucket, error):
    assert not abandon(bucket, error)
    assert bucket == {MARK: b"ours"}


def test_what_has_gone_to_another_run_is_left_alone(bucket):
    bucket[MARK] = b"theirs"
    abandon(bucket, UserError(""))
    assert bucket == {MARK: b"theirs", SHARD: b"shard"}


def test_two_runs_of_one_host_need_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/nowhere")
    with publishing._only_one_of_this_host("gs://bucket/data"):
        with pytest.raises(UserError, match="another process"), publishing._only_one_of_this_host("gs://bucket/data"):
            pass
        with publishing._only_one_of_this_host("gs://bucket/other"):
            pass
    (file, *_) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    for path in tmp_path.iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), publishing._only_one_of_this_host("gs://bucket/data"):
        pass
    assert not (tmp_path / "elsewhere").exists()
