"""Images in a zip archive on a disk and in a bucket, however damaged or malicious it is."""

import contextlib
import errno
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from tests.support import buckets
from tests.support.zips import CONTENT, only_member, pack
from trainer.dataset.rejects import Reason
from trainer.errors import UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import archives, folders
from trainer.sources.archives import Archive, Member


def reason(member: Member) -> tuple[Reason, str]:
    with pytest.raises(ImageError) as caught:
        member.read()
    return caught.value.reason, caught.value.detail


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        file.write(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_in_another_process_without_the_table_of_contents(tmp_path: Path, method: int):
    path = pack(tmp_path / "a.zip", method=method)
    sent = pickle.dumps(only_member(path))
    assert len(sent) < 500
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    patch(path, begin, bytes(size - begin))
    assert pickle.loads(sent).read() == CONTENT  # noqa: S301


def test_an_empty_member_is_read(tmp_path: Path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert only_member(pack(tmp_path / f"{method}.zip", method=method, content=b"")).read() == b""


def test_the_archive_may_have_something_in_front(tmp_path: Path):
    pack(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" * 100 + (tmp_path / "a.zip").read_bytes())
    assert only_member(tmp_path / "b.zip").read() == CONTENT


def test_threads_read_side_by_side(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    contents = {f"{n}.jpg": bytes([n]) * 50_000 for n in range(50)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    found = dict(archives.members(Archive(str(tmp_path / "a.zip"))))
    with ThreadPoolExecutor(8) as pool:
        read = dict(zip(found, pool.map(lambda member: member.read(), found.values()), strict=True))
    assert read == contents


def test_a_declared_size_above_the_limit_is_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    member = only_member(pack(tmp_path / "a.zip"))
    (tmp_path / "a.zip").unlink()
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT) - 1)
    assert reason(member)[0] is Reason.TOO_LARGE


def test_a_member_that_is_larger_than_declared_is_not_inflated(tmp_path: Path):
    path = pack(tmp_path / "bomb.zip", content=bytes(32 << 20))
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    patch(path, begin + 24, struct.pack("<I", 1000))  # The size in the table of contents.
    import tracemalloc

    member = only_member(path)
    assert member.size == 1000
    tracemalloc.start()
    assert reason(member)[0] is Reason.CORRUPT
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused(tmp_path: Path, method: int):
    rejected = reason(only_member(pack(tmp_path / "a.zip", method=method)))
    assert rejected == (Reason.NO_PICTURE, f"the archive compresses it by method {method}, not stored or deflate")


def test_an_encrypted_member_is_refused(tmp_path: Path):
    path = pack(tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    patch(path, begin + 8, b"\1\0")
    assert reason(only_member(path)) == (Reason.NO_PICTURE, "it is encrypted in the archive")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_anywhere_in_a_member_is_found(tmp_path: Path, method: int):
    original = pack(tmp_path / "a.zip", method=method).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        begin = archive.start_dir
    path = tmp_path / "b.zip"
    for offset in [0, 3, 26, 28, *range(35, begin, max(1, begin // 40))]:
        path.write_bytes(original)
        patch(path, offset, bytes([original[offset] ^ 0x55]))
        assert reason(only_member(path))[0] is Reason.CORRUPT, offset
        (tmp_path / "b.zip").unlink()
        archives._opened.__dict__.clear()


@pytest.mark.parametrize("keep", [0, 10, 100, -1, -30])
def test_an_archive_that_is_cut_off_is_explained(tmp_path: Path, keep: int):
    data = pack(tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[:keep] if keep else b"")
    with pytest.raises(UserError, match=r"--images=.*a\.zip is damaged or not a zip archive .*: copy or create it again"):
        folders.open_images(str(tmp_path / "a.zip"))


def test_damage_anywhere_in_the_table_of_contents_is_explained_or_harmless(tmp_path: Path):
    path = tmp_path / "a.zip"
    original = pack(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    for offset in range(begin, len(original)):
        for change in (0x01, 0x80, 0xFF):
            path.write_bytes(original)
            patch(path, offset, bytes([original[offset] ^ change]))
            archives._opened.__dict__.clear()
            with contextlib.suppress(UserError, ImageError):
                assert folders.open_images(str(path)).find("a").file.read() == CONTENT


def test_names_that_lead_out_of_an_archive_are_skipped(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("../up.jpg", "/root.jpg", "in/../../up.jpg", "folder/", "in\\back.jpg", "good.jpg"):
            archive.writestr(name, CONTENT)
    found = folders.open_images(str(tmp_path / "a.zip"))
    assert found.find("good").file.read() == found.find("back").file.read() == found.find("in/back.jpg").file.read() == CONTENT
    for name in ("up", "root", "folder"):
        with pytest.raises(ImageError):
            found.find(name)


def test_an_io_error_does_not_make_an_archive_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Failing(io.BytesIO):
        def seek(self, *_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    member = only_member(pack(tmp_path / "a.zip"))
    monkeypatch.setattr(Archive, "open", lambda _: Failing())
    with pytest.raises(OSError, match="Input/output"):
        member.read()
    with pytest.raises(OSError, match="Input/output"):
        list(archives.members(Archive(str(tmp_path / "a.zip"))))


@pytest.fixture
def bucket(monkeypatch):
    archives._opened.__dict__.clear()
    return buckets.in_memory(monkeypatch, "posters")


def zipped(**members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.jpg", content)
    return packed.getvalue()


def test_an_archive_in_a_bucket_is_read(bucket):
    bucket.put("gs://posters/films.zip", zipped(tt1=CONTENT))
    finder = folders.open_images("gs://posters/films.zip")
    image = finder.find("films/tt1.jpg").file
    assert image.read() == CONTENT
    assert image.is_remote
    assert not bucket.asked("list"), "an archive is no folder"


def test_an_archive_is_opened_once_per_thread(bucket):
    bucket.put("gs://posters/films.zip", zipped(tt1=CONTENT, tt2=b"2"))
    finder = folders.open_images("gs://posters/films.zip")
    bucket.requests.clear()
    for _ in range(2):
        assert finder.find("tt1").file.read() == CONTENT
        assert finder.find("tt2").file.read() == b"2"
    assert len(bucket.asked("open")) == 1


def test_an_archive_that_is_replaced_or_removed_while_it_is_read_is_explained(bucket):
    said = r"^--images=gs://posters/films\.zip was removed or replaced while it was read: run the same command again$"
    uri = "gs://posters/films.zip"
    generation = bucket.put(uri, zipped(tt1=CONTENT))
    image = folders.open_images(uri).find("tt1").file
    bucket.put(uri, zipped(tt1=CONTENT, tt2=CONTENT))
    with pytest.raises(UserError, match=said):
        image.read()
    with pytest.raises(UserError, match=said):
        list(archives.members(Archive(uri, generation)))
    del bucket.content[uri]
    archives._opened.__dict__.clear()
    with pytest.raises(UserError, match=said):
        image.read()
    with pytest.raises(UserError, match=said):
        list(archives.members(Archive(uri, generation)))


def test_an_archive_that_cannot_be_read_rejects_its_images(monkeypatch):
    def fail(_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Archive, "open", fail)
    archives._opened.__dict__.clear()
    member = Member(Archive("/posters.zip"), 0, 1, 1, 0, zipfile.ZIP_STORED, encrypted=False)
    assert reason(member) == (Reason.NO_PICTURE, "it cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("name", "is_archive"),
    [("a.zip", True), ("a.ZIP?signature=1", True), ("a.zip.jpg", False), ("azip", False), ("a.zip/b", False)],
)
def test_an_archive_is_known_by_its_name(name, is_archive):
    assert archives.is_archive_name(name) is is_archive
