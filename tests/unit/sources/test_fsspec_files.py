"""Files behind the URLs that fsspec supports: retries, errors in plain words, and folders on the web."""

import io

import aiohttp
import fsspec
import pytest

from tests.support.clock import Clock
from trainer.dataset.rejects import Reason
from trainer.errors import LostService, UserError
from trainer.images import decode
from trainer.images.decode import ImageError
from trainer.sources import fsspec_files
from trainer.sources.fsspec_files import File

URL = "sftp://me:pa55@host/posters"


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(fsspec_files, "time", made)
    return made


class System:
    """A file system in memory, whose requests end with the given errors in turn before they succeed."""

    def __init__(self, *errors, content=b"0123456789"):
        self.errors, self.content, self.opened = list(errors), content, []

    def check(self):
        if self.errors:
            raise self.errors.pop(0)

    def cat_file(self, path):
        self.check()
        return self.content

    def info(self, path):
        self.check()
        return {"type": "directory" if path.endswith("/") else "file"}

    def open(self, path, mode, **options):
        self.check()
        self.opened.append(Opened(self, options))
        return self.opened[-1]

    def find(self, root, detail):
        self.check()
        assert detail
        return {
            f"{root}/a.jpg": {"type": "file", "size": 3},
            f"{root}/deep/b.jpg": {"type": "file"},
            f"{root}/deep": {"type": "directory", "size": 0},
            "/elsewhere/c.jpg": {"type": "file", "size": 3},
        }


class Opened(io.BytesIO):
    def __init__(self, system, options):
        super().__init__(system.content)
        self.system, self.options, self.received = system, options, 0

    def read(self, size=-1):
        content = super().read(size)
        self.received += len(content)
        self.system.check()
        return content


@pytest.fixture
def at(monkeypatch):
    """Puts a file system behind every URL."""

    def put(system):
        monkeypatch.setattr(fsspec_files, "_file_system", lambda url: (system, "/posters"))
        return system

    return put


AWAY = OSError("away")


def test_a_request_that_fails_is_made_again_after_growing_pauses(clock, at):
    at(System(AWAY, AWAY, AWAY))
    assert fsspec_files.read(URL) == b"0123456789"
    assert clock.pauses == [0.5, 1, 2]
    at(System(AWAY, AWAY, AWAY, AWAY))
    with pytest.raises(
        LostService, match=r"^sftp://host/posters does not answer \(OSError: away\): run the same command again, or"
    ):
        fsspec_files.read(URL)


def test_a_refusal_is_final(clock, at):
    system = at(System(PermissionError("no"), AWAY))
    with pytest.raises(UserError):
        fsspec_files.read(URL)
    assert system.errors == [AWAY]
    assert clock.pauses == []


class AnswerError(Exception):
    def __init__(self, status):
        super().__init__("refused")
        self.status = status


def unreachable():
    error = FileNotFoundError(URL)
    error.__cause__ = aiohttp.ClientError("no route to https://me:pa55@host")
    return error


@pytest.mark.parametrize(
    ("error", "end", "said"),
    [
        *(
            (kind(URL), FileNotFoundError, r"no such file: 'sftp://host/posters'")
            for kind in (FileNotFoundError, NotADirectoryError)
        ),
        (IsADirectoryError(URL), FileNotFoundError, "no such file"),
        (
            unreachable(),
            LostService,
            r"^sftp://host/posters does not answer \(ClientError: no route to https://host\): run the same",
        ),
        (ImportError("Install paramiko"), UserError, r"needs a package that is not installed \(Install paramiko\): install the"),
        (
            PermissionError("no"),
            UserError,
            r"^sftp://host/posters may not be read \(PermissionError: no\): use other credentials, or",
        ),
        (AnswerError(404), FileNotFoundError, "no such file"),
        *(
            (
                AnswerError(status),
                UserError,
                rf"^sftp://host/posters cannot be read \(the server answers {status}\): check the URL and your permission to read",
            )
            for status in (400, 403, 499)
        ),
        *(
            (
                AnswerError(status),
                UserError,
                r"cannot be read \(AnswerError: refused\): check the URL, your permission to read it and",
            )
            for status in (399, 408, 429, 500, None, "403")
        ),
        (aiohttp.ClientError("gone"), LostService, r"does not answer \(ClientError: gone\)"),
        (TimeoutError(), LostService, r"does not answer \(TimeoutError\)"),
        (
            KeyError("a"),
            UserError,
            r"cannot be read \(KeyError: 'a'\): check the URL, your permission to read it and the credentials",
        ),
    ],
)
def test_an_error_of_a_file_system_is_put_in_plain_words(clock, at, error, end, said):
    class Failing(System):
        def check(self):
            raise error

    at(Failing())
    with pytest.raises(end, match=said) as caught:
        fsspec_files.read(URL)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("error", [UserError("ours"), ImageError(Reason.EMPTY, "ours")])
def test_an_error_of_this_package_stays_what_it_is(clock, at, error):
    at(System(error))
    with pytest.raises(type(error), match="ours"):
        fsspec_files.read(URL)


def test_a_missing_package_for_the_web_is_an_extra_of_this_one():
    told = fsspec_files._translate("https://host/a", ImportError("aiohttp"))
    assert str(told).endswith("(aiohttp): pip install 'poster-trainer[fsspec]'")


def test_a_file_of_known_size_is_read_whole_or_not_at_all(at):
    system = at(System())
    file = File(URL, "/posters/a.jpg", 10)
    assert file.is_remote
    assert file.read() == file.read_small(10) == b"0123456789"
    system.errors = [AWAY]
    assert file.read_small(9) is None
    assert system.errors, "a large file is not asked for"


def test_of_a_file_of_unknown_size_one_byte_more_than_the_limit_is_read(at):
    system = at(System())
    file = File(URL, "/posters/a.jpg", None)
    assert file.read() == file.read_small(10) == b"0123456789"
    assert file.read_small(9) is None
    assert system.opened[-1].received == 10
    assert system.opened[-1].options == {}


def test_a_file_on_the_web_is_streamed(at):
    """With fsspec's blocks more would be downloaded than is read."""
    system = at(System())
    assert File("https://host", "https://host/a.jpg", None).read_small(3) is None
    assert system.opened[-1].options == {"block_size": 0}


def test_an_image_that_is_missing_or_too_large_is_rejected(at, monkeypatch):
    at(System(FileNotFoundError(), content=b"123"))
    with pytest.raises(ImageError) as caught:
        File(URL, "/posters/a.jpg", 3).read()
    assert (caught.value.reason, caught.value.detail) == (Reason.NO_PICTURE, "no such file")
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 3)
    assert File(URL, "/posters/a.jpg", 3).read() == b"123"
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 2)
    with pytest.raises(ImageError) as caught:
        File(URL, "/posters/a.jpg", 3).read()
    assert (caught.value.reason, caught.value.detail) == (Reason.TOO_LARGE, "more than 2 bytes")


def test_a_file_is_told_from_a_folder_and_from_nothing(at, monkeypatch):
    at(System())
    assert fsspec_files.is_file(URL)
    monkeypatch.setattr(fsspec_files, "_file_system", lambda url: (System(), "/posters/"))
    assert not fsspec_files.is_file(URL)
    at(System(FileNotFoundError()))
    assert not fsspec_files.is_file(URL)


def test_an_open_file_is_read_again_where_a_read_failed(clock, at):
    system = at(System())
    with fsspec_files.open_seekable(URL) as file:
        assert file.seekable()
        assert system.opened[-1].options == {"block_size": 128 << 10}
        assert file.seek(3) == file.tell() == 3
        system.errors = [AWAY, AWAY]
        assert file.read(2) == b"34"
        assert clock.pauses == [0.5, 1]
        assert file.seek(-2, 2) == 8
        assert file.read() == b"89"
    assert system.opened[-1].closed


def test_a_server_without_range_requests_is_explained_and_its_file_closed(at):
    system = at(System())

    def no_ranges():
        if system.opened:
            raise ValueError("no Content-Range")

    system.check = no_ranges
    with pytest.raises(
        UserError, match=r"^sftp://host/posters is on a server that does not support range requests: copy it to this machine or to"
    ):
        fsspec_files.open_seekable(URL)
    assert system.opened[-1].closed


def test_a_server_that_refuses_the_first_range_is_not_blamed_for_ranges(at):
    system = at(System())

    def refuse():
        if system.opened:
            raise PermissionError("no")

    system.check = refuse
    with pytest.raises(UserError, match="may not be read"):
        fsspec_files.open_seekable(URL)
    assert system.opened[-1].closed


def test_a_folder_is_listed_with_what_is_below_it(at):
    at(System())
    assert list(fsspec_files.below(URL)) == [
        ("a.jpg", File(URL, "/posters/a.jpg", 3)),
        ("deep/b.jpg", File(URL, "/posters/deep/b.jpg", None)),
    ]
    at(System(FileNotFoundError()))
    with pytest.raises(UserError, match=r"^sftp://host/posters does not exist: check the URL$"):
        list(fsspec_files.below(URL))


def test_a_folder_on_the_web_is_what_its_pages_link_to(monkeypatch):
    root = "https://host/p"
    pages = {
        f"{root}/": ["", "/", "/?C=N", "/a.jpg", "/deep/", "/deep/", "/#top", "/../up.jpg"],
        f"{root}/deep/": ["/", "/deep/", "/deep/b%20c.jpg", "/deep/../a.jpg", "/deep/er/"],
        f"{root}/deep/er/": ["/deep/er/d.jpg"],
    }
    asked: list[str] = []

    class Web:
        def ls(self, folder, detail):
            assert not detail
            assert len(asked) < 50, "it never ends"
            asked.append(folder)
            return ["https://host/elsewhere/e.jpg", *(f"{root}{link}" for link in pages[folder])]

    monkeypatch.setattr(fsspec_files, "_file_system", lambda url: (Web(), url))
    for url in (root, f"{root}/"):
        asked.clear()
        found = dict(fsspec_files.below(url))
        assert sorted(found) == ["a.jpg", "deep/b c.jpg", "deep/er/d.jpg"]
        assert found["deep/b c.jpg"] == File(url, f"{root}/deep/b%20c.jpg", None)
        assert set(asked) == set(pages)


def test_the_web_is_reached_through_the_proxy_of_the_environment(monkeypatch):
    asked = []
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url, **options: asked.append((url, options)))
    fsspec_files._file_system.cache_clear()
    for url in ("https://host/a", "https://host/a", "sftp://host/a"):
        fsspec_files._file_system(url)
    fsspec_files._file_system.cache_clear()
    assert asked == [("https://host/a", {"client_kwargs": {"trust_env": True}}), ("sftp://host/a", {})]


def test_a_url_that_names_a_local_file_is_a_path():
    assert fsspec_files.local_path("file:///home/a.csv") == "/home/a.csv"
    assert fsspec_files.local_path("local:///home/a.csv") == "/home/a.csv"
    assert fsspec_files.local_path("/home/a.csv") == "/home/a.csv"
    assert fsspec_files.local_path("https://host/a.csv") is None


def test_the_name_of_a_url_is_its_last_part():
    assert fsspec_files.name("https://host/a%20b.zip?signature=1/2") == "a b.zip"
    assert fsspec_files.name("/home/posters/") == "posters"
