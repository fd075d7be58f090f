"""Images in a bucket: folders, archives, and what is told when they change or are too large."""

import errno
import io
import zipfile

import pytest

from tests.support import buckets
from trainer.dataset.rejects import Reason
from trainer.errors import UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import archives, folders
from trainer.sources.archives import Archive, Member
from trainer.sources.folders import LocalFile, StoredObject
from trainer.sources.fsspec_files import File

CONTENT = b"an image" * 1000


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


def rejected(read):
    with pytest.raises(ImageError) as caught:
        read()
    return caught.value.reason, caught.value.detail


def test_a_folder_of_a_bucket_is_found_with_its_subfolders(bucket):
    for name in ("films/", "films/tt1.jpg", "films/deep/tt2.png", "films2/tt3.jpg"):
        bucket.put(f"gs://posters/{name}", name.encode())
    for uri in ("gs://posters/films", "gs://posters/films/"):
        finder = folders.open_images(uri)
        assert finder.find("tt2").read() == finder.find("films/deep/tt2.png").read() == b"films/deep/tt2.png"
        assert finder.find("tt1") == StoredObject("gs://posters/films/tt1.jpg", 13)
        assert rejected(lambda finder=finder: finder.find("tt3"))[0] is Reason.NO_PICTURE
    for uri in ("gs://posters", "gs://posters/"):
        assert folders.open_images(uri).find("posters/films2/tt3.jpg").read() == b"films2/tt3.jpg"


def test_a_bucket_without_files_in_that_folder_is_explained(bucket):
    for uri in ("gs://posters/films", "gs://posters/films.zip", "gs://posters"):
        with pytest.raises(
            UserError, match=rf"^--images={uri} holds no files or is not a folder: name the folder or zip archive of"
        ):
            folders.open_images(uri)


def test_an_archive_in_a_bucket_is_read(bucket):
    bucket.put("gs://posters/films.zip", zipped(tt1=CONTENT))
    finder = folders.open_images("gs://posters/films.zip")
    image = finder.find("films/tt1.jpg")
    assert image.read() == CONTENT
    assert image.is_remote
    assert not bucket.asked("list"), "an archive is no folder"


def test_a_folder_may_be_named_like_an_archive(bucket):
    bucket.put("gs://posters/films.zip/tt1.jpg", CONTENT)
    assert folders.open_images("gs://posters/films.zip").find("films.zip/tt1.jpg").read() == CONTENT


def test_an_archive_is_opened_once_per_thread(bucket):
    bucket.put("gs://posters/films.zip", zipped(tt1=CONTENT, tt2=b"2"))
    finder = folders.open_images("gs://posters/films.zip")
    bucket.requests.clear()
    for _ in range(2):
        assert finder.find("tt1").read() == CONTENT
        assert finder.find("tt2").read() == b"2"
    assert len(bucket.asked("open")) == 1


def test_an_archive_that_is_replaced_or_removed_while_it_is_read_is_explained(bucket):
    said = r"^--images=gs://posters/films\.zip was removed or replaced while it was read: run the same command again$"
    uri = "gs://posters/films.zip"
    generation = bucket.put(uri, zipped(tt1=CONTENT))
    image = folders.open_images(uri).find("tt1")
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
    assert rejected(member.read) == (Reason.NO_PICTURE, "it cannot be read: Permission denied")


def test_only_images_behind_a_network_are_remote(bucket, tmp_path):
    assert StoredObject("gs://posters/a.jpg", 1).is_remote
    assert File("memory://a", "/a", 1).is_remote
    assert not LocalFile(tmp_path).is_remote
    for location, is_remote in (("gs://posters/a.zip", True), ("https://host/a.zip", True), ("/posters/a.zip", False)):
        assert Member(Archive(location), 0, 0, 0, 0, 0, encrypted=False).is_remote is is_remote


def test_an_image_as_large_as_the_limit_is_read_ahead_and_a_larger_one_is_not(bucket, tmp_path):
    bucket.put("gs://posters/a.jpg", CONTENT)
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    (tmp_path / "a.zip").write_bytes(zipped(a=CONTENT))
    ((_, member),) = archives.members(Archive(str(tmp_path / "a.zip")))
    for image in (StoredObject("gs://posters/a.jpg", len(CONTENT)), LocalFile(tmp_path / "a.jpg"), member):
        assert image.read_small(len(CONTENT)) == CONTENT
        assert image.read_small(len(CONTENT) - 1) is None
    packed = Member(Archive("/nowhere"), 0, compressed_size=5, size=3, crc=0, method=0, encrypted=False)
    assert packed.read_small(4) is None, "an image may be larger in the archive"


def test_an_image_as_large_as_the_limit_of_all_images_is_read_and_a_larger_one_is_not(bucket, tmp_path, monkeypatch):
    bucket.put("gs://posters/a.jpg", CONTENT)
    (tmp_path / "a.zip").write_bytes(zipped(a=CONTENT))
    ((_, member),) = archives.members(Archive(str(tmp_path / "a.zip")))
    images = (StoredObject("gs://posters/a.jpg", len(CONTENT)), member)
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT))
    for image in images:
        assert image.read() == CONTENT
    assert folders.read_image("gs://posters/a.jpg") == CONTENT
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT) - 1)
    for image in images:
        assert rejected(image.read) == (Reason.TOO_LARGE, "more than 7,999 bytes")
    assert rejected(lambda: folders.read_image("gs://posters/a.jpg"))[0] is Reason.TOO_LARGE


def test_an_image_that_is_missing_is_rejected(bucket, tmp_path):
    missing = (Reason.NO_PICTURE, "no such file")
    assert rejected(StoredObject("gs://posters/a.jpg", 1).read) == missing
    assert rejected(lambda: folders.read_image("gs://posters/a.jpg")) == missing
    assert rejected(lambda: folders.read_image(str(tmp_path / "a.jpg"))) == missing
    assert rejected(lambda: LocalFile(tmp_path / "a.jpg").read_small(10)) == missing


def test_a_file_is_read_wherever_it_is(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b.csv").write_bytes(b"here")
    bucket.put("gs://posters/a.csv", b"there")
    assert folders.read("~/a b.csv") == folders.read(f"file://{tmp_path}/a b.csv") == folders.read_image("~/a b.csv") == b"here"
    assert folders.read("gs://posters/a.csv") == b"there"
    assert folders.read_image(str(tmp_path / "a b.csv")) == b"here"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENAMETOOLONG])
def test_a_path_that_cannot_be_looked_at_is_not_found_unless_the_storage_is_away(tmp_path, monkeypatch, number):
    def fail(_):
        raise OSError(number, "failed")

    folder = folders.LocalFolder(tmp_path)
    monkeypatch.setattr(type(tmp_path), "is_file", fail)
    if number == errno.EIO:
        with pytest.raises(OSError, match="failed"):
            folder.get("a.jpg")
    else:
        assert folder.get("a.jpg") is None


@pytest.mark.parametrize(
    ("name", "is_archive"),
    [("a.zip", True), ("a.ZIP?signature=1", True), ("a.zip.jpg", False), ("azip", False), ("a.zip/b", False)],
)
def test_an_archive_is_known_by_its_name(name, is_archive):
    assert archives.is_archive_name(name) is is_archive
