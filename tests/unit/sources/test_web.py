"""Tests of downloading images from a real local server that misbehaves on demand."""

import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from tests.support.clock import Clock
from tests.support.web import serving
from trainer.dataset.rejects import Reason
from trainer.images.decode import ImageError
from trainer.sources import web
from trainer.sources.web import download

IMAGE = b"\xff\xd8\xff an image" * 100
QUICK = Retry(total=3)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Counter[str]
    told: dict[str, str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        self.told.update(self.headers.items())
        first = self.asked[self.path] == 1
        match self.path.split("?")[0]:
            case "/busy_at_first" if first:
                self.answer(503)
            case "/always_busy" if self.asked[self.path] < 50:  # A client that never gives up gets an image in the end.
                self.answer(503)
            case "/missing":
                self.answer(404)
            case "/hangs_up_at_first" if first:
                self.close_connection = True
            case "/breaks_off_at_first" if first:
                self.answer(200, IMAGE[:50], length=len(IMAGE))
                self.close_connection = True
            case "/endless":
                self.send_response(200)
                self.end_headers()
                self.close_connection = True
                try:
                    for _ in range(1000):
                        self.wfile.write(bytes(10_000))
                except OSError:
                    pass
            case "/packed":
                self.answer(200, IMAGE, encoding="gzip")
            case "/of_size":
                self.answer(200, IMAGE[:3] + bytes(int(self.path.partition("?")[2]) - 3))
            case "/later" if first:
                self.answer(503, wait=self.path.partition("?")[2])
            case "/sorry":
                self.answer(200, b"<html>come back later</html>")
            case "/moved":
                self.answer(302, location="/good")
            case "/to_a_file":
                self.answer(302, location="file:///etc/passwd")
            case "/in_circles":
                self.answer(302, location="/in_circles")
            case _:
                self.answer(200, IMAGE)

    def answer(
        self,
        status: int,
        content: bytes = b"",
        *,
        length: int | None = None,
        location: str | None = None,
        encoding: str | None = None,
        wait: str | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in {"Location": location, "Content-Encoding": encoding, "Retry-After": wait}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Discards the line."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    Handler.asked = Counter()
    Handler.told = {}
    with serving(Handler) as running:
        yield running


@pytest.fixture
def server_url(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def one(url: str, cache_dir: Path) -> Path | ImageError:
    return download([url], cache_dir=cache_dir, max_bytes=100_000, retry=QUICK)[url]


@pytest.mark.parametrize("path", ["/good", "/a,b?c=d,e", "/busy_at_first", "/hangs_up_at_first", "/breaks_off_at_first", "/moved"])
def test_an_image_is_downloaded_whatever_happens_at_first(server_url: str, tmp_path: Path, path: str):
    found = one(server_url + path, tmp_path)
    assert isinstance(found, Path)
    assert found.read_bytes() == IMAGE
    assert [file.name for file in tmp_path.iterdir()] == [found.name]


@pytest.mark.parametrize(
    ("path", "reason", "detail", "requests"),
    [
        ("/missing", Reason.NOT_FETCHED, "the server answered 404", 1),
        ("/always_busy", Reason.NOT_FETCHED, "the server answered 503", 4),
        ("/endless", Reason.TOO_LARGE, "more than 100,000 bytes", 1),
        ("/to_a_file", Reason.NOT_FETCHED, "not a valid http(s) URL, or a redirect to something else", 1),
        ("/in_circles", Reason.NOT_FETCHED, "too many redirects", 31),
        ("/packed", Reason.NOT_FETCHED, "not a valid http(s) URL, or a redirect to something else", 1),
    ],
)
def test_what_cannot_be_downloaded_is_rejected_and_not_kept(
    server_url: str, tmp_path: Path, path: str, reason: Reason, detail: str, requests: int
):
    error = one(server_url + path, tmp_path)
    assert isinstance(error, ImageError)
    assert (error.reason, error.detail) == (reason, detail)
    assert Handler.asked[path] == requests
    assert not list(tmp_path.iterdir())


def test_a_page_instead_of_an_image_is_not_kept(server: http.server.ThreadingHTTPServer, tmp_path: Path):
    url = f"http://127.0.0.1:{server.server_address[1]}/sorry"
    for _ in range(2):
        result = download([url], cache_dir=tmp_path, retry=QUICK)[url]
        assert isinstance(result, ImageError)
        assert result.reason == Reason.UNSUPPORTED_FORMAT
    assert not list(tmp_path.iterdir())
    assert Handler.asked["/sorry"] == 2


def test_an_unreachable_server_is_reported_without_its_address(tmp_path: Path):
    error = one("http://127.0.0.1:9/poster.jpg", tmp_path)
    assert isinstance(error, ImageError)
    assert error.detail == "the connection to the server failed or was interrupted"


def test_an_invalid_url_is_rejected(tmp_path: Path):
    error = one("http://[broken", tmp_path)
    assert isinstance(error, ImageError)
    assert error.reason is Reason.NOT_FETCHED


def test_each_url_is_downloaded_once_and_a_rerun_requests_none(server_url: str, tmp_path: Path, capsys):
    urls = [f"{server_url}/{number}" for number in range(40)] * 2
    first = download(urls, cache_dir=tmp_path, retry=QUICK)
    assert len(first) == 40
    assert set(Handler.asked.values()) == {1}
    assert "downloading images: 40 of 40" in capsys.readouterr().err
    assert download(urls, cache_dir=tmp_path, retry=QUICK) == first
    assert set(Handler.asked.values()) == {1}
    assert capsys.readouterr().err == "", "no work, no progress"


def test_a_cache_that_cannot_be_written_is_an_error(server_url: str, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        one(f"{server_url}/good", tmp_path / "file")


def test_the_largest_file_has_as_many_bytes_as_allowed(server_url: str, tmp_path: Path):
    assert isinstance(one(f"{server_url}/of_size?100000", tmp_path), Path)
    error = one(f"{server_url}/of_size?100001", tmp_path)
    assert isinstance(error, ImageError)
    assert error.reason is Reason.TOO_LARGE


def test_a_server_is_asked_for_the_image_as_it_is(server_url: str, tmp_path: Path):
    one(f"{server_url}/good", tmp_path)
    assert (Handler.told["Accept-Encoding"], Handler.told["User-Agent"]) == ("identity", "poster-trainer")


def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the pauses between requests, none of which takes any time."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_a_busy_server_is_asked_three_times_more_with_growing_pauses(server_url: str, tmp_path: Path, monkeypatch):
    waited = pauses(monkeypatch)
    url = f"{server_url}/always_busy"
    error = download([url], cache_dir=tmp_path)[url]
    assert isinstance(error, ImageError)
    assert Handler.asked["/always_busy"] == 4
    assert [seconds for seconds in waited if seconds >= 0.5] == [1, 2]


@pytest.mark.parametrize(("asked", "obeyed"), [(7, 7), (3600, 30)])
def test_a_server_that_says_when_to_come_back_is_obeyed_up_to_half_a_minute(
    server_url: str, tmp_path: Path, monkeypatch, asked: int, obeyed: int
):
    waited = pauses(monkeypatch)
    url = f"{server_url}/later?{asked}"
    assert isinstance(download([url], cache_dir=tmp_path)[url], Path)
    assert max(waited) == obeyed


def test_a_silent_server_is_not_waited_for_forever(tmp_path: Path, monkeypatch):
    limits = []

    def silent(adapter, request, *, timeout, stream, **options):
        assert stream, "else the whole body would be read, however large it is"
        limits.append(timeout)
        raise requests.ReadTimeout("silent")

    monkeypatch.setattr(HTTPAdapter, "send", silent)
    error = one("http://films.example/a.jpg", tmp_path)
    assert isinstance(error, ImageError)
    assert (error.reason, error.detail) == (Reason.NOT_FETCHED, "the connection to the server failed or was interrupted")
    assert limits == [(10, 30)] * 4, "seconds to connect, and between two bytes"


@pytest.mark.parametrize("seconds", [120, 121])
def test_a_server_that_sends_a_byte_now_and_then_has_two_minutes(tmp_path: Path, monkeypatch, seconds: int):
    clock = Clock()
    monkeypatch.setattr(web, "time", clock)

    class Slow(requests.Response):
        def iter_content(self, *_, **__):
            yield IMAGE[:100]
            clock.now += seconds
            yield IMAGE[100:]

    response = Slow()
    response.status_code = 200
    monkeypatch.setattr(requests.Session, "get", lambda *_, **__: response)
    monkeypatch.setattr(Slow, "close", lambda _: None)
    found = one("http://films.example/a.jpg", tmp_path)
    if seconds == 120:
        assert isinstance(found, Path)
    else:
        assert isinstance(found, ImageError)
        assert (found.reason, found.detail) == (Reason.NOT_FETCHED, "incomplete after 120 seconds")


def test_a_write_that_fails_leaves_no_part_of_a_file(server_url: str, tmp_path: Path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        one(f"{server_url}/good", tmp_path)
    assert not list(tmp_path.iterdir())


def test_after_a_failure_the_downloads_that_wait_never_begin(tmp_path: Path, monkeypatch):
    begun = []

    def one(sessions, url, *_):
        begun.append(url)
        if url == "0":
            raise OSError("No space left on device")
        threading.Event().wait(0.05)

    monkeypatch.setattr(web, "_download_one", one)
    with pytest.raises(OSError, match="No space left"):
        download([str(number) for number in range(200)], cache_dir=tmp_path)
    assert len(begun) < 100


def test_images_of_the_web_are_kept_where_the_system_keeps_caches(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert web.default_cache_dir() == tmp_path / "caches" / "poster-trainer" / "pictures"
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, "" if name == "XDG_CACHE_HOME" else str(tmp_path))
    assert web.default_cache_dir() == tmp_path / ".cache" / "poster-trainer" / "pictures"
