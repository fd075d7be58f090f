"""`python -m trainer.prepare` from and to Cloud Storage, archives and the web: the same bytes as on a disk, whatever happens."""

import csv
import functools
import http.server
import json
import re
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.storage.faults import Plan
from tests.fakes.storage.server import Storage
from tests.integration.test_prepare import draw, encoded, genres_of, tree
from tests.support import commands
from tests.support.web import serving

FILMS = 60
FLAGS = ("--height=48", "--width=32", "--shards=32")
LOCK = ".preparing.json"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films.csv, Posters/ with subfolders, and archive.zip with the same files as macOS packs them."""
    folder = tmp_path_factory.mktemp("films")
    good = {film: f"{'older' if film % 2 else 'newer'}/tt{film:07d}.jpg" for film in range(FILMS)}
    bad = {"empty.jpg": b"", "cut.jpg": encoded(draw(5))[:400], "page.png": b"<html>"}
    rows = [(f"tt{film:07d}", str(genres_of(film)), path if film % 3 else f"Posters\\{path}") for film, path in good.items()]
    rows += [(name, "Drama", name) for name in (*bad, "absent.jpg", "../up.jpg", "/root.jpg")]
    for name, content in ({path: encoded(draw(film)) for film, path in good.items()} | bad).items():
        (folder / "Posters" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "Posters" / name).write_bytes(content)
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Id", "Genre", "Poster"), *rows])
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "Posters").rglob("*")):
            name = path.relative_to(folder).as_posix()
            archive.write(path, name)
            archive.writestr(f"__MACOSX/{Path(name).parent}/._{path.name}", b"\0\5\x16\7")
    return folder


@pytest.fixture(scope="module")
def expected(films: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data set of the films, made on a disk."""
    output = tmp_path_factory.mktemp("expected")
    commands.run(*command(films / "films.csv", films / "Posters", output))
    made = tree(output)
    assert b"truncated" in made["rejects.csv"]
    return made


@pytest.fixture(scope="module")
def stored(cloud: Storage, films: Path) -> str:
    """A bucket with the films."""
    bucket = cloud.bucket("prepare-films")
    cloud.upload_folder(films, bucket)
    return bucket


@pytest.fixture
def output(cloud: Storage) -> str:
    """An empty folder for a data set, in a bucket that also holds other files."""
    cloud.clear()
    bucket = cloud.bucket(f"prepare-{time.monotonic_ns()}")
    cloud.put(f"{bucket}/other/notes.txt", b"mine")
    cloud.put(f"{bucket}/data/notes.txt", b"mine")
    return f"{bucket}/data"


@pytest.fixture
def environment(cloud: Storage, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "scratch").mkdir()
    folders = {"TMPDIR": str(tmp_path / "scratch"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return {**commands.ENVIRONMENT, **cloud.environment, **folders}


def command(csv_path: Path | str, images: Path | str, output: Path | str, *flags: str) -> list[str]:
    return ["trainer.prepare", f"--csv={csv_path}", f"--images={images}", f"--output={output}", *FLAGS, *flags]


def made(cloud: Storage, output: str) -> dict[str, bytes]:
    """Returns the files that the folder gained, at any depth; the earlier ones must be unchanged."""
    found = cloud.objects(output)
    assert found.pop("notes.txt") == b"mine"
    assert cloud.get(f"{output.removesuffix('data')}other/notes.txt") == b"mine"
    return found


def on_disk(folder: Path) -> list[str]:
    """Returns what a run left in the folder for temporary files, except the lock file."""
    return [name for name in tree(folder) if not name.endswith(".lock")]


def has_shards(cloud: Storage, output: str, count: int = 1) -> bool:
    return sum(name.endswith(".tfrecord") for name in cloud.names(output)) >= count


def test_a_bucket_gives_and_takes_the_bytes_of_a_disk_in_spite_of_faults(
    cloud: Storage, films: Path, stored: str, output: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
):
    kinds = ("429", "500", "503", "reset", "lost_answer", "truncated")
    cloud.inject(Plan(kinds, rate=0.05, seed=7, match="storage.googleapis.com"))
    commands.run(*command(f"{stored}/films.csv", f"{stored}/Posters", output), env=environment)
    assert sum(cloud.counts().values()) >= 5
    assert made(cloud, output) == expected
    assert not on_disk(tmp_path / "scratch")


def test_an_archive_in_a_bucket_is_read_in_ranges(
    cloud: Storage, stored: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
):
    cloud.clear()
    commands.run(*command(f"{stored}/films.csv", f"{stored}/archive.zip", tmp_path / "data"), env=environment)
    assert tree(tmp_path / "data") == expected
    reads = [request for request in cloud.requests() if "archive.zip" in request["target"] and "alt=media" in request["target"]]
    assert reads
    assert all(request["range"] for request in reads)


def test_killed_while_it_uploads_the_rerun_ends_with_the_same_objects(
    cloud: Storage, films: Path, output: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
):
    arguments = command(films / "films.csv", films / "archive.zip", output)
    cloud.latency(0.05)
    process = commands.start(*arguments, env=environment)
    assert commands.interrupt(process, signal.SIGKILL, when=lambda: has_shards(cloud, output, 3)) == -signal.SIGKILL
    left = made(cloud, output)
    assert LOCK in left
    assert "dataset.json" not in left
    kept = [name for name, data in left.items() if expected.get(name) == data]
    assert kept
    # Files that a run with other flags might have left.
    cloud.put(f"{output}/train-00031-of-00032.tfrecord", b"other images")
    cloud.put(f"{output}/train-00000-of-00099.tfrecord", b"other images")
    cloud.clear()
    commands.run(*arguments, env=environment)
    assert made(cloud, output) == expected
    uploaded = " ".join(request["upload"] for request in cloud.requests())
    assert "train-00031-of-00032" in uploaded
    assert not [name for name in kept if name in uploaded]
    assert not on_disk(tmp_path / "scratch")
    # A finished data set is replaced only with --overwrite.
    before = cloud.objects(output)
    assert "holds a finished data set: add --overwrite" in commands.refusal(*arguments, env=environment)
    assert cloud.objects(output) == before
    commands.run(*arguments, "--shards=2", "--overwrite", env=environment)
    after = made(cloud, output)
    listed = {shard["name"] for split in json.loads(after["dataset.json"])["splits"].values() for shard in split["shards"]}
    assert {name for name in listed if name.startswith("train")} == {f"train-0000{n}-of-00002.tfrecord" for n in range(2)}
    assert set(after) == {*listed, "rejects.csv", "near_duplicates.csv", "preview.html", "dataset.json"}


def test_a_refused_run_leaves_nothing_and_a_stopped_one_what_the_next_continues_from(
    cloud: Storage, films: Path, output: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
):
    arguments = command(films / "films.csv", films / "Posters", output)
    # This shard can be neither written nor removed.
    cloud.inject(Plan(("403",), match=r"train-00009-"))
    result = commands.run(*arguments, code=2, env=environment)
    assert re.search(r"error: .*data/train-00009-of-00032\.tfrecord: .* lacks storage\.objects\.create", result.stderr)
    assert "holds unfinished files, which the next run removes" in result.stderr
    assert list(made(cloud, output)) == [LOCK]
    assert not on_disk(tmp_path / "scratch")
    cloud.put(f"{output}/train-00009-of-00032.tfrecord", b"left")
    cloud.clear()
    assert "no row of the CSV" in commands.refusal(*arguments, "--min_examples=999", env=environment)
    assert made(cloud, output) == {}
    cloud.latency(0.05)
    process = commands.start(*arguments, env=environment)
    assert commands.interrupt(process, signal.SIGTERM, when=lambda: has_shards(cloud, output, 3)) == 143
    left = made(cloud, output)
    assert left.pop(LOCK)
    assert len(left) >= 3
    assert left.items() <= expected.items()
    assert "dataset.json" not in left
    assert not on_disk(tmp_path / "scratch")
    cloud.clear()
    commands.run(*arguments, env=environment)
    assert made(cloud, output) == expected
    uploaded = " ".join(request["upload"] for request in cloud.requests())
    assert not [name for name in left if name in uploaded]


def test_a_run_that_loses_cloud_storage_keeps_its_uploads(
    cloud: Storage, films: Path, output: str, environment: dict[str, str], expected: dict[str, bytes]
):
    arguments = command(films / "films.csv", films / "Posters", output)
    cloud.inject(Plan(("503",), match=r"train-00031-"))
    hasty = environment | {"GCS_RETRY_CONFIG_MAX_RETRIES": "2"}
    result = commands.run(*arguments, code=75, env=hasty)
    assert "train-00031-of-00032.tfrecord: Cloud Storage does not answer" in result.stderr
    left = made(cloud, output)
    assert left.pop(LOCK)
    assert left
    assert left.items() <= expected.items()
    assert not [request for request in cloud.requests() if request["method"] == "DELETE"]
    cloud.clear()
    commands.run(*arguments, env=environment)
    assert made(cloud, output) == expected


def test_two_runs_of_one_host_keep_apart(cloud: Storage, films: Path, output: str, environment: dict[str, str]):
    arguments = command(films / "films.csv", films / "Posters", output)
    process = commands.start(*arguments, env=environment)
    try:
        while LOCK not in cloud.names(output):
            assert process.poll() is None
            time.sleep(0.05)
        assert "is in use by another process" in commands.refusal(*arguments, env=environment)
        assert LOCK in cloud.names(output)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 143
    # The shards uploaded by then stay, and the lock that says whose they are.
    assert LOCK in made(cloud, output)


@pytest.fixture
def web(films: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(films))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with serving(handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_the_web_gives_the_bytes_of_a_disk(
    films: Path, web: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
):
    commands.run(*command(f"{web}/films.csv", f"{web}/Posters", tmp_path / "data"), env=environment)
    assert tree(tmp_path / "data") == expected


@pytest.mark.parametrize(
    ("csv_path", "images", "output", "message"),
    [
        ("gs://nowhere-at-all/films.csv", "BUCKET/Posters", "BUCKET/new", "does not exist|no bucket gs://nowhere-at-all"),
        ("BUCKET/none.csv", "BUCKET/Posters", "BUCKET/new", r"--csv=gs://prepare-films/none\.csv does not exist"),
        ("BUCKET/films.csv", "gs://nowhere-at-all/Posters", "BUCKET/new", "there is no bucket gs://nowhere-at-all"),
        ("BUCKET/films.csv", "BUCKET/none.zip", "BUCKET/new", r"--images=gs://prepare-films/none\.zip holds no file"),
        ("BUCKET/films.csv", "BUCKET/films.csv", "BUCKET/new", r"--images=gs://prepare-films/films\.csv holds no file"),
        ("BUCKET/films.csv", "BUCKET/Posters", "gs://nowhere-at-all/new", "there is no bucket gs://nowhere-at-all"),
        (
            "BUCKET/films.csv",
            "BUCKET/Posters",
            "https://nowhere.invalid/new",
            r"--output=.*: name a path on a disk, or gs://BUCKET/PATH",
        ),
    ],
)
def test_what_does_not_exist_is_one_line(
    cloud: Storage, stored: str, environment: dict[str, str], csv_path: str, images: str, output: str, message: str
):
    cloud.clear()
    line = commands.refusal(*command(*(value.replace("BUCKET", stored) for value in (csv_path, images, output))), env=environment)
    assert re.search(message, line), line
    assert not cloud.names(f"{stored}/new")
