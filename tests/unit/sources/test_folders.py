"""Images and CSVs in all kinds of storage, and servers that misbehave."""

import errno
import http.server
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from etils import epath

from tests.support import buckets
from tests.support.web import serving
from tests.support.zips import CONTENT, only_member, pack
from trainer.catalog import catalog
from trainer.catalog.columns import Columns
from trainer.dataset.rejects import Reason
from trainer.errors import LostService, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.preparation import decoding
from trainer.sources import archives, folders, fsspec_files
from trainer.sources.archives import Archive, Member
from trainer.sources.folders import LocalFile, StoredObject
from trainer.sources.fsspec_files import File
from trainer.sources.image_folder import ImageFile
from trainer.storage import urls

CSV = b"id,genre\ntt1,Drama\n"


@pytest.fixture
def bucket(monkeypatch):
    archives._opened.__dict__.clear()
    return buckets.in_memory(monkeypatch, "posters")


def rejected(read):
    with pytest.raises(ImageError) as caught:
        read()
    return caught.value.reason, caught.value.detail


def test_a_path_may_begin_with_the_name_of_its_archive(tmp_path: Path):
    pack(tmp_path / "Posters.ZIP")
    assert folders.open_images(str(tmp_path / "Posters.ZIP")).find("Posters\\a.jpg").file.read() == CONTENT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist: name a folder or a zip archive"),
        ("nowhere.zip", "does not exist: name a folder or a zip archive"),
        ("file.tar", r"is a file: name a folder, or an archive whose name ends in \.zip"),
        ("empty.zip", "holds no files"),
    ],
)
def test_what_is_neither_folder_nor_archive_is_explained(tmp_path: Path, name: str, message: str):
    (tmp_path / "file.tar").touch()
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    with pytest.raises(UserError, match=f"--images=.*{name} {message}"):
        folders.open_images(str(tmp_path / name))


def test_a_folder_may_be_named_like_an_archive(tmp_path: Path):
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "a.zip" / "a.jpg").write_bytes(CONTENT)
    assert folders.open_images(str(tmp_path / "a.zip")).find("a").file.read() == CONTENT
    assert folders.open_images(f"file://{tmp_path}/a.zip").find("a").file == folders.LocalFile(tmp_path / "a.zip" / "a.jpg")


def fail_with_io_error(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_an_io_error_does_not_make_a_folder_empty_or_an_image_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    folder = folders.LocalFolder(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(Path, "is_file", fail_with_io_error)
        folder.get("a.jpg")
    monkeypatch.setattr(os, "scandir", fail_with_io_error)
    with pytest.raises(OSError, match="Input/output"):
        list(folder.paths())


def test_only_small_images_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    memory = fsspec.filesystem("memory")
    memory.pipe("/small/a.jpg", CONTENT)
    images: list[ImageFile] = [
        folders.LocalFile(tmp_path / "a.jpg"),
        only_member(pack(tmp_path / "a.zip")),
        fsspec_files.File("memory://small", "/small/a.jpg", len(CONTENT)),
        fsspec_files.File("memory://small", "/small/a.jpg", None),
    ]
    assert [decoding._read_ahead(image) for image in images] == [CONTENT] * 4
    asked = []

    def read_up_to(_system: object, _path: str, max_bytes: int) -> bytes:
        asked.append(max_bytes)
        return CONTENT[:max_bytes]

    monkeypatch.setattr(fsspec_files, "_read_up_to", read_up_to)
    monkeypatch.setattr(decoding, "_LARGE_BYTES", len(CONTENT) - 1)
    assert [decoding._read_ahead(image) for image in images] == [None] * 4
    assert asked == [len(CONTENT)]
    assert images[3].read() == CONTENT


def test_a_folder_of_a_bucket_is_found_with_its_subfolders(bucket):
    for name in ("films/", "films/tt1.jpg", "films/deep/tt2.png", "films2/tt3.jpg"):
        bucket.put(f"gs://posters/{name}", name.encode())
    for uri in ("gs://posters/films", "gs://posters/films/"):
        finder = folders.open_images(uri)
        assert finder.find("tt2").file.read() == finder.find("films/deep/tt2.png").file.read() == b"films/deep/tt2.png"
        assert finder.find("tt1").file == StoredObject("gs://posters/films/tt1.jpg", 13)
        assert rejected(lambda finder=finder: finder.find("tt3"))[0] is Reason.NO_PICTURE
    for uri in ("gs://posters", "gs://posters/"):
        assert folders.open_images(uri).find("posters/films2/tt3.jpg").file.read() == b"films2/tt3.jpg"


def test_a_bucket_without_files_in_that_folder_is_explained(bucket):
    for uri in ("gs://posters/films", "gs://posters/films.zip", "gs://posters"):
        with pytest.raises(
            UserError, match=rf"^--images={uri} holds no files or is not a folder: name the folder or zip archive of"
        ):
            folders.open_images(uri)


def test_only_images_behind_a_network_are_remote(bucket, tmp_path):
    assert StoredObject("gs://posters/a.jpg", 1).is_remote
    assert File("memory://a", "/a", 1).is_remote
    assert not LocalFile(tmp_path).is_remote
    for location, is_remote in (("gs://posters/a.zip", True), ("https://host/a.zip", True), ("/posters/a.zip", False)):
        assert Member(Archive(location), 0, 0, 0, 0, 0, encrypted=False).is_remote is is_remote


def test_an_image_as_large_as_the_limit_is_read_ahead_and_a_larger_one_is_not(bucket, tmp_path):
    bucket.put("gs://posters/a.jpg", CONTENT)
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    member = only_member(pack(tmp_path / "a.zip"))
    for image in (StoredObject("gs://posters/a.jpg", len(CONTENT)), LocalFile(tmp_path / "a.jpg"), member):
        assert image.read_small(len(CONTENT)) == CONTENT
        assert image.read_small(len(CONTENT) - 1) is None
    packed = Member(Archive("/nowhere"), 0, compressed_size=5, size=3, crc=0, method=0, encrypted=False)
    assert packed.read_small(4) is None, "an image may be larger in the archive"


def test_an_image_as_large_as_the_limit_of_all_images_is_read_and_a_larger_one_is_not(bucket, tmp_path, monkeypatch):
    bucket.put("gs://posters/a.jpg", CONTENT)
    member = only_member(pack(tmp_path / "a.zip"))
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


def test_an_image_of_a_bucket_that_was_not_listed_is_read_up_to_the_limit(bucket, monkeypatch):
    bucket.put("gs://posters/a.jpg", CONTENT)
    image = folders.CloudImage("gs://posters/a.jpg")
    assert image.is_remote
    assert image.read() == image.read_small(len(CONTENT)) == CONTENT
    assert image.read_small(len(CONTENT) - 1) is None
    assert image.read_start(12) == StoredObject("gs://posters/a.jpg", len(CONTENT)).read_start(12) == CONTENT[:12]
    asked = len(bucket.asked("read"))
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT) - 1)
    assert rejected(image.read) == (Reason.TOO_LARGE, "more than 7,999 bytes")
    assert len(bucket.asked("read")) == asked, "a file that is too large is not read"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://posters/none.jpg", "no such file"),
        ("gs://Not A Bucket/a.jpg", "gs://Not A Bucket/a.jpg: 'Not A Bucket' cannot be a bucket's name: write gs://BUCKET/PATH"),
        ("gs://posters", "a bucket or folder, not a file"),
        ("gs://posters/films/", "a bucket or folder, not a file"),
    ],
)
def test_a_uri_in_a_csv_that_names_no_image_rejects_its_row_alone(bucket, uri, said):
    for read in (lambda image: image.read(), lambda image: image.read_small(9), lambda image: image.read_start(9)):
        assert rejected(lambda read=read: read(folders.CloudImage(uri))) == (Reason.NO_PICTURE, said)


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


def test_a_folder_of_a_bucket_may_be_named_like_an_archive(bucket):
    bucket.put("gs://posters/films.zip/tt1.jpg", CONTENT)
    assert folders.open_images("gs://posters/films.zip").find("films.zip/tt1.jpg").file.read() == CONTENT


# -------------------------------------------------------------------------------------------------------------------- fsspec


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host:80/a.csv?X-Goog-Signature=1 2#x", "https://host:80/a.csv"),
        ("sftp://me:p?a@ss#@host/a@2x.jpg", "sftp://host/a@2x.jpg"),
        ("zip://a.csv::https://me:pass@host/a.zip?sig=1", "zip://a.csv::https://host/a.zip"),
        ("gs://bucket/really?.csv", "gs://bucket/really?.csv"),
        ("/home/me@work/really?.csv", "/home/me@work/really?.csv"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str):
    assert urls.shown(url) == shown


def test_no_message_shows_the_secrets_of_a_url(web: str):
    secret = web.replace("http://", "http://me:pa55@")
    calls = [
        *(
            (folders.read, f"{server}/{name}?signature=pa55")
            for server in (secret, "http://me:pa55@127.0.0.1:9")
            for name in ("denied.csv",)
        ),
        *((folders.open_images, f"{secret}/{name}?signature=pa55") for name in ("none", "whole.zip", "films.csv.zip")),
        (folders.read, "nonsense://me:pa55@host/a?pa55"),
        (folders.open_images, "memory://me:pa55@none?pa55"),
        (lambda url: catalog.read(url, Columns()), f"{secret}/none.csv?signature=pa55"),
    ]
    for call, url in calls:
        with pytest.raises((UserError, LostService)) as caught:
            call(url)
        assert "pa55" not in str(caught.value)
    error = OSError("cannot reach URL('https://me:pa55@host/a?signature=pa55') (/a?pa55)")
    for meant in (error, PermissionError(str(error)), ImportError(str(error)), KeyError(str(error))):
        assert "pa55" not in str(fsspec_files._translate("https://me:pa55@host/a?pa55", meant))


def test_a_csv_and_an_archive_behind_a_url(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/data/films.csv", CSV)
    memory.pipe("/data/a.zip", pack(tmp_path / "a.zip").read_bytes())
    assert [film.id for film in catalog.read("memory://data/films.csv", Columns()).films] == ["tt1"]
    with pytest.raises(UserError, match="--csv=file:///nowhere does not exist: check the path"):
        catalog.read("file:///nowhere", Columns())
    (tmp_path / "films.csv").write_bytes(CSV)
    assert catalog.read(epath.Path(tmp_path / "films.csv"), Columns()).rows == 1
    assert folders.open_images("memory://data/a.zip").find("a").file.read() == CONTENT
    with pytest.raises(UserError, match="--images=memory://data/none holds no files"):
        folders.open_images("memory://data/none")


def test_an_unsupported_url_is_explained(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"--csv=|nonsense://a: Protocol not known: nonsense"):
        folders.read("nonsense://a")
    fsspec_files._file_system.cache_clear()
    for name in ("aiohttp", "fsspec.implementations.http", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    for protocol in ("https", "http"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(UserError, match=r"pip install 'poster-trainer\[fsspec\]'"):
        folders.read("https://localhost/films.csv")
    with pytest.raises(UserError, match="Install s3fs to access S3"):
        folders.open_images("s3://bucket/posters")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves index pages as Apache and nginx do, and files with and without range requests."""

    files: dict[str, bytes]
    busy: int

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/busy") and self.server.busy > 0:  # type: ignore[attr-defined]
            self.server.busy -= 1  # type: ignore[attr-defined]
            self.answer(503, b"")
        elif path == "/denied.csv":
            self.answer(403, b"")
        elif path.endswith("/"):
            below = sorted({name[len(path) :].partition("/")[0] + "/" * ("/" in name[len(path) :]) for name in self.paths(path)})
            links = ["../", "?C=N;O=D", "/", "/elsewhere/", *below]
            page = "".join(f'<a href="{link}">{link}</a>' for link in links).encode()
            self.answer(200 if below else 404, page, kind="text/html")
        elif path in self.server.files:  # type: ignore[attr-defined]
            content = self.server.files[path]  # type: ignore[attr-defined]
            if "range" in self.headers and "whole" not in path:
                first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
                end = min(int(last or len(content)), len(content) - 1)
                self.answer(206, content[int(first) : end + 1], **{"Content-Range": f"bytes {first}-{end}/{len(content)}"})
            else:
                self.answer(200, content, **({} if "whole" in path else {"Accept-Ranges": "bytes"}))
        else:
            self.answer(404, b"")

    def paths(self, folder: str) -> list[str]:
        return [path for path in self.server.files if path.startswith(folder)]  # type: ignore[attr-defined]

    def answer(self, status: int, content: bytes, kind: str = "application/octet-stream", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Discards the line."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    archive = pack(tmp_path / "a.zip", content=bytes(range(256)) * 4000, method=zipfile.ZIP_STORED).read_bytes()
    with serving(Handler) as made:
        made.busy = 0  # type: ignore[attr-defined]
        made.files = {  # type: ignore[attr-defined]
            "/films.csv": CSV,
            "/denied.csv": CSV,
            "/busy.csv": CSV,
            "/a.zip": archive,
            "/whole.zip": archive,
            "/p/tt1.jpg": CONTENT,
            "/p/deep/a%20b.jpg": b"",
            "/elsewhere/secret.jpg": CONTENT,
        }
        yield made


@pytest.fixture
def web(server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fsspec_files, "_PAUSES", (0.01, 0.01))
    return f"http://127.0.0.1:{server.server_port}"


def test_a_folder_on_the_web_is_what_its_pages_link_to(web: str):
    found = folders.open_images(f"{web}/p")
    assert found.find("1").file.read() == CONTENT
    assert found.find("p/deep/a b.jpg").file.read() == b""
    with pytest.raises(ImageError):
        found.find("secret")
    with pytest.raises(UserError, match="/none does not exist: check the URL"):
        folders.open_images(f"{web}/none")


def test_an_image_on_the_web_that_is_missing_or_too_large_is_rejected(
    server: http.server.ThreadingHTTPServer, web: str, monkeypatch: pytest.MonkeyPatch
):
    image = folders.open_images(f"{web}/p/").find("tt1").file
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT) - 1)
    with pytest.raises(ImageError) as caught:
        image.read()
    assert caught.value.reason is Reason.TOO_LARGE
    server.files.clear()  # type: ignore[attr-defined]
    with pytest.raises(ImageError) as caught:
        image.read()
    assert (caught.value.reason, caught.value.detail) == (Reason.NO_PICTURE, "no such file")


def test_an_archive_on_the_web_is_read_by_range_requests_or_refused(web: str):
    assert folders.open_images(f"{web}/a.zip?signature=1").find("a").file.read() == bytes(range(256)) * 4000
    with pytest.raises(UserError, match="does not support range requests: copy it"):
        folders.open_images(f"{web}/whole.zip")


def test_servers_that_refuse_or_do_not_answer(server: http.server.ThreadingHTTPServer, web: str):
    assert folders.read(f"{web}/films.csv") == CSV
    with pytest.raises(FileNotFoundError):
        folders.read(f"{web}/none.csv")
    with pytest.raises(UserError, match=r"denied\.csv cannot be read \(the server answers 403\): check"):
        folders.read(f"{web}/denied.csv")
    server.busy = 2  # type: ignore[attr-defined]
    assert folders.read(f"{web}/busy.csv") == CSV
    server.busy = 100  # type: ignore[attr-defined]
    with pytest.raises(LostService, match=r"busy\.csv does not answer"):
        folders.read(f"{web}/busy.csv")
    for url in ("http://127.0.0.1:9/films.csv", "http://nowhere.invalid/films.csv"):
        with pytest.raises(LostService, match="does not answer"):
            folders.read(url)
    for url in ("http://127.0.0.1:9/posters", "http://127.0.0.1:9/posters.zip"):
        with pytest.raises(LostService, match="does not answer"):
            folders.open_images(url)


def test_a_stored_object_that_is_too_large_is_not_read():
    with pytest.raises(ImageError) as caught:
        folders.StoredObject("gs://nowhere/a.jpg", decode.MAX_FILE_BYTES + 1).read()
    assert caught.value.reason is Reason.TOO_LARGE


def test_no_more_than_the_limit_is_read():
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * min(size, 1000)

    class System:
        def open(self, *_: object, **__: object) -> Endless:
            return Endless()

    assert len(fsspec_files._read_up_to(System(), "sftp://a", 12_345)) == 12_345
