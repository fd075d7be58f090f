"""Tests of images and CSVs in all kinds of storage, of damaged and malicious archives, and of servers that misbehave."""

import contextlib
import errno
import http.server
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from etils import epath

from tests.support.web import serving
from trainer.catalog import catalog
from trainer.catalog.columns import Columns
from trainer.dataset.rejects import Reason
from trainer.errors import LostService, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.preparation import decoding
from trainer.sources import archives, folders, fsspec_files
from trainer.sources.archives import Archive, Member
from trainer.sources.lookup import ImageFile
from trainer.storage import urls

CONTENT = b"an image" * 1000
CSV = b"id,genre\ntt1,Drama\n"


def pack(path: Path, *, method: int = zipfile.ZIP_DEFLATED, name: str = "a.jpg", content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def only_member(path: Path) -> Member:
    ((_, member),) = archives.members(Archive(str(path)))
    return member


def reason(member: Member) -> tuple[Reason, str]:
    with pytest.raises(ImageError) as caught:
        member.read()
    return caught.value.reason, caught.value.detail


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        file.write(data)


# ------------------------------------------------------------------------------------------------------------------ Archives


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
                assert folders.open_images(str(path)).find("a").read() == CONTENT


def test_names_that_lead_out_of_an_archive_are_skipped(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("../up.jpg", "/root.jpg", "in/../../up.jpg", "folder/", "in\\back.jpg", "good.jpg"):
            archive.writestr(name, CONTENT)
    found = folders.open_images(str(tmp_path / "a.zip"))
    assert found.find("good").read() == found.find("back").read() == found.find("in/back.jpg").read() == CONTENT
    for name in ("up", "root", "folder"):
        with pytest.raises(ImageError):
            found.find(name)


def test_a_path_may_begin_with_the_name_of_its_archive(tmp_path: Path):
    pack(tmp_path / "Posters.ZIP")
    assert folders.open_images(str(tmp_path / "Posters.ZIP")).find("Posters\\a.jpg").read() == CONTENT


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
    assert folders.open_images(str(tmp_path / "a.zip")).find("a").read() == CONTENT
    assert folders.open_images(f"file://{tmp_path}/a.zip").find("a") == folders.LocalFile(tmp_path / "a.zip" / "a.jpg")


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
    assert folders.open_images("memory://data/a.zip").find("a").read() == CONTENT
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
    assert found.find("1").read() == CONTENT
    assert found.find("p/deep/a b.jpg").read() == b""
    with pytest.raises(ImageError):
        found.find("secret")
    with pytest.raises(UserError, match="/none does not exist: check the URL"):
        folders.open_images(f"{web}/none")


def test_an_image_on_the_web_that_is_missing_or_too_large_is_rejected(
    server: http.server.ThreadingHTTPServer, web: str, monkeypatch: pytest.MonkeyPatch
):
    image = folders.open_images(f"{web}/p/").find("tt1")
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", len(CONTENT) - 1)
    with pytest.raises(ImageError) as caught:
        image.read()
    assert caught.value.reason is Reason.TOO_LARGE
    server.files.clear()  # type: ignore[attr-defined]
    with pytest.raises(ImageError) as caught:
        image.read()
    assert (caught.value.reason, caught.value.detail) == (Reason.NO_PICTURE, "no such file")


def test_an_archive_on_the_web_is_read_by_range_requests_or_refused(web: str):
    assert folders.open_images(f"{web}/a.zip?signature=1").find("a").read() == bytes(range(256)) * 4000
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
