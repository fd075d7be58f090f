"""`python -m trainer.prepare` as a user runs it, on images drawn here and on real posters where they are available."""

import csv
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.support import commands
from tests.support.web import serving
from trainer.dataset import manifest, near_duplicates
from trainer.demo import posters as demo_posters

REAL_POSTERS = commands.REPOSITORY.parent / "shared" / "data" / "originals"
GENRES = ("Action", "Comedy", "Drama", "War")
FILMS = 60


def draw(film: int) -> Image.Image:
    """Returns an image of one colour, a different one for each film."""
    return Image.new("RGB", (40, 60), (film * 3, 255 - film * 3, film * 37 % 256))


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def genres_of(film: int) -> list[str]:
    return [genre for bit, genre in enumerate(GENRES) if (film >> bit) & 1] or ["Drama"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films.csv and posters/."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "posters").mkdir()
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Id", "Genre"))
        for film in range(FILMS):
            (folder / "posters" / f"tt{film:07d}.jpg").write_bytes(encoded(draw(film)))
            writer.writerow((f"tt{film:07d}", str(genres_of(film))))
    return folder


def command(csv_path: Path | str, output: Path | str, *flags: str, images: Path | str | None = None) -> list[str]:
    given = [f"--images={images}"] if images else []
    return ["trainer.prepare", f"--csv={csv_path}", f"--output={output}", *given, "--height=48", "--width=32", *flags]


def prepare(
    csv_path: Path | str, output: Path | str, *flags: str, images: Path | str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return commands.run(*command(csv_path, output, *flags, images=images), env={**commands.ENVIRONMENT, **environment})


def refusal(csv_path: Path, output: Path, *flags: str, images: Path | None = None) -> str:
    return commands.refusal(*command(csv_path, output, *flags, images=images))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def examples(folder: Path, split: str) -> list[tuple[str, list[int], list[str], bytes]]:
    """Returns id, label, genre names and image of a split's examples, in the order in which they were assigned to the shards."""
    import tensorflow as tf

    in_shards = []
    for path in manifest.load(folder).shard_paths(split):
        of_shard = []
        for record in tf.data.TFRecordDataset(path):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            of_shard.append(
                (
                    feature["image/id"].bytes_list.value[0].decode(),
                    list(feature["image/label"].int64_list.value),
                    [name.decode() for name in feature["image/label_text"].bytes_list.value],
                    feature["image/encoded"].bytes_list.value[0],
                )
            )
            assert feature["image/height"].int64_list.value == [48]
            assert feature["image/width"].int64_list.value == [32]
        in_shards.append(of_shard)
    longest = max(map(len, in_shards))
    return [of_shard[index] for index in range(longest) for of_shard in in_shards if index < len(of_shard)]


def rejects(folder: Path) -> list[tuple[int, str, str]]:
    with (folder / "rejects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(list(row) == ["row", "id", "reason", "detail"] and row["detail"] for row in rows)
    return [(int(row["row"]), row["id"], row["reason"]) for row in rows]


def counts(table: str) -> Counter[str]:
    """Reads the first table that the command prints, the rows."""
    rows = re.findall(r"^ *(\S.*?)  +([\d,]+)$", table.split("\n\n")[0], re.MULTILINE)
    return Counter({name: int(count.replace(",", "")) for name, count in rows})


def assert_adds_up(table: str, folder: Path) -> None:
    rows = counts(table)
    dataset = json.loads((folder / "dataset.json").read_text())
    by_reason = Counter(reason for _, _, reason in rejects(folder))
    expected = {f"examples in {name}": split["examples"] for name, split in dataset["splits"].items()}
    expected |= {f"rejected: {reason}": count for reason, count in by_reason.items()}
    assert rows == {"rows read": sum(expected.values()), **expected}


@pytest.fixture(scope="module")
def prepared(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The data set of the films and what the command printed."""
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    return output, prepare(films / "films.csv", output, images=films / "posters").stdout


def test_every_film_becomes_an_example(prepared: tuple[Path, str]):
    output, table = prepared
    dataset = manifest.load(output)
    assert dataset.genres == GENRES
    assert_adds_up(table, output)
    seen: dict[str, tuple[list[int], list[str], bytes]] = {}
    for name in manifest.SPLITS:
        found = examples(output, name)
        assert len(found) == dataset.split(name).examples
        sizes = [shard.examples for shard in dataset.split(name).shards]
        assert sorted(sizes, reverse=True) == sizes
        assert max(sizes) - min(sizes) <= 1
        assert not manifest.corrupt_shards(dataset, name)
        names_of_genres = Counter(genre for _, _, text, _ in found for genre in text)
        assert names_of_genres == Counter(dataset.split(name).genre_counts)
        seen |= {film_id: (label, text, image) for film_id, label, text, image in found}
    assert len(dataset.split("train").shards) == 16
    assert set(seen) == {f"tt{film:07d}" for film in range(FILMS)}
    for film in range(FILMS):
        label, text, image = seen[f"tt{film:07d}"]
        assert text == genres_of(film)
        assert label == [int(genre in text) for genre in GENRES]
        pixels = np.asarray(Image.open(io.BytesIO(image))).astype(int)
        assert pixels.shape == (48, 32, 3)
        assert np.abs(pixels - draw(film).getpixel((0, 0))).max() <= 4


def test_the_order_is_mixed_and_does_not_depend_on_the_csv(films: Path, prepared: tuple[Path, str], tmp_path: Path):
    output, _ = prepared
    order = [film_id for film_id, *_ in examples(output, "train")]
    assert order != sorted(order)
    header, *rows = (films / "films.csv").read_text().splitlines(keepends=True)
    (tmp_path / "films.csv").write_text(header + "".join(reversed(rows)))
    prepare(tmp_path / "films.csv", tmp_path / "dataset", images=films / "posters")
    assert tree(tmp_path / "dataset") == tree(output)


def test_raw_images_are_pixels(films: Path, tmp_path: Path):
    prepare(films / "films.csv", tmp_path, "--encoding=raw", "--shards=3", images=films / "posters")
    dataset = manifest.load(tmp_path)
    assert dataset.encoding == "raw"
    assert len(dataset.split("train").shards) == 3
    film_id, *_, image = examples(tmp_path, "train")[0]
    pixels = np.frombuffer(image, np.uint8).reshape(48, 32, 3).astype(int)
    assert np.abs(pixels - draw(int(film_id[2:])).getpixel((0, 0))).max() <= 2


def test_every_bad_row_is_rejected_by_name_and_a_poster_in_two_splits_is_named(films: Path, tmp_path: Path):
    posters = tmp_path / "posters"
    posters.mkdir()
    good = encoded(draw(7))
    (posters / "good.jpg").write_bytes(good)
    (posters / "same.jpg").write_bytes(good)
    (posters / "empty.jpg").touch()
    (posters / "cut.jpg").write_bytes(good[: len(good) // 2])
    (posters / "page.jpg").write_text("<html>")
    poster = demo_posters.draw("The Poster", ["Comedy"], random.Random(1))
    (posters / "poster.jpg").write_bytes(encoded(poster))
    (posters / "small.jpg").write_bytes(encoded(poster.resize((90, 135))))
    (posters / "link.jpg").symlink_to(films / "posters" / "tt0000001.jpg")
    rows = [
        "good,Drama,good.jpg,train",
        "again,Drama,good.jpg,train",
        "good,Drama,good.jpg,train",
        ",Drama,good.jpg,train",
        "bare,N/A,good.jpg,train",
        'listless,"[\'Drama",good.jpg,train',
        "absent,Drama,absent.jpg,train",
        "empty,Drama,empty.jpg,train",
        "cut,Drama,cut.jpg,train",
        "page,Drama,page.jpg,train",
        "up,Drama,../../etc/passwd,train",
        "root,Drama,/etc/passwd,train",
        "link,Drama,link.jpg,train",
        "late,Drama,good.jpg,tomorrow",
        "rare,War,same.jpg,train",
        "parted,Drama,same.jpg,test",
        "long,Drama,good.jpg,train,what",
        "poster,Drama,poster.jpg,train",
        "poster again,Drama,small.jpg,test",
    ]
    (tmp_path / "films.csv").write_text("id,genre,poster,split\n" + "\n".join(rows) + "\n")
    flags = ("--split_column=split", "--min_examples=2")
    result = prepare(tmp_path / "films.csv", tmp_path / "dataset", *flags, images=posters)
    assert_adds_up(result.stdout, tmp_path / "dataset")
    assert rejects(tmp_path / "dataset") == [
        (3, "good", "repeated"),
        (4, "", "no_id"),
        (5, "bare", "no_genre"),
        (6, "listless", "bad_genres"),
        (7, "absent", "no_picture"),
        (8, "empty", "empty"),
        (9, "cut", "truncated"),
        (10, "page", "unsupported_format"),
        (11, "up", "outside_folder"),
        (12, "root", "outside_folder"),
        (13, "link", "outside_folder"),
        (14, "late", "bad_split"),
        (15, "rare", "rare_genre_only"),
        (16, "parted", "shared_picture"),
        (17, "", "bad_row"),
    ]
    assert manifest.load(tmp_path / "dataset").genres == ("Drama",)
    assert {film_id for film_id, *_ in examples(tmp_path / "dataset", "train")} == {"good", "again", "poster"}
    dataset = manifest.load(tmp_path / "dataset")
    leaked = {split: near_duplicates.leaked(dataset, split) for split in manifest.SPLITS}
    assert leaked == {"train": {"poster"}, "validation": set(), "test": {"poster again"}}
    assert re.search(r"^posters of test that also occur in train +1$", result.stdout, re.MULTILINE)
    assert re.search(r"^posters of validation that also occur in train +0$", result.stdout, re.MULTILINE)
    assert "'validation' has no example" in result.stderr
    assert str(tmp_path) not in (tmp_path / "dataset" / "rejects.csv").read_text()


def test_the_tilde_is_the_home_folder(films: Path, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(films, home)
    flags = ("--cache_dir=~/cache",)
    prepare("~/films.csv", "~/dataset", *flags, images="~/posters", HOME=str(home))
    assert manifest.load(home / "dataset").genres == GENRES
    assert (home / "cache").is_dir()


class PosterServer(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        found = re.fullmatch(r"/(\d+)_CR0,0,182,268_\.jpg", self.path)
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(encoded(draw(int(found[1]))))

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def poster_server() -> Iterator[str]:
    with serving(PosterServer) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_images_are_fetched_once_and_kept(poster_server: str, tmp_path: Path):
    PosterServer.asked.clear()
    lines = [f'{film},"{poster_server}/{film}_CR0,0,182,268_.jpg",{"|".join(genres_of(film))}' for film in range(20)]
    lines.append(f"99,{poster_server}/gone.jpg,Drama")
    (tmp_path / "films.csv").write_bytes(("imdbId,Poster,Genre\n" + "\n".join(lines)).encode("utf-16"))
    flags = (f"--cache_dir={tmp_path / 'cache'}",)
    prepare(tmp_path / "films.csv", tmp_path / "one", *flags, NO_PROXY="127.0.0.1")
    assert rejects(tmp_path / "one") == [(21, "99", "not_fetched")]
    prepare(tmp_path / "films.csv", tmp_path / "two", *flags, NO_PROXY="127.0.0.1")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert {count for path, count in PosterServer.asked.items() if path != "/gone.jpg"} == {1}


@pytest.mark.parametrize("moment", ["decoding", "first shard", "later shards"])
def test_killed_at_any_moment_a_rerun_ends_with_the_same_bytes(
    films: Path, prepared: tuple[Path, str], tmp_path: Path, moment: str
):
    pattern = {"decoding": "images.spool", "first shard": "train-00000*", "later shards": "validation-*"}[moment]
    stage = tmp_path / "dataset" / ".incomplete"
    process = commands.start(*command(films / "films.csv", tmp_path / "dataset", images=films / "posters"))
    ended = commands.interrupt(process, signal.SIGKILL, when=lambda: any(stage.glob(pattern)))
    assert ended == -signal.SIGKILL
    assert not (tmp_path / "dataset" / "dataset.json").exists()
    assert stage.exists()
    prepare(films / "films.csv", tmp_path / "dataset", images=films / "posters")
    assert tree(tmp_path / "dataset") == tree(prepared[0])
    assert not stage.exists()


def test_decoding_processes_do_not_outlive_their_parent(films: Path, tmp_path: Path):
    spool, image = tmp_path / "spool", films / "posters" / "tt0000001.jpg"
    spool.touch()
    program = f"""
from pathlib import Path
from trainer.preparation import decoding
from trainer.sources import folders
with open({str(spool)!r}, "wb") as spool:
    decoding.store([folders.LocalFile(Path({str(image)!r}))] * 100_000, spool, height=192, width=128, encoding="jpeg")
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=commands.REPOSITORY, start_new_session=True)
    try:
        while process.poll() is None and not spool.stat().st_size:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while is_there(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_there(process.pid)
    finally:
        if is_there(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def is_there(group: int) -> bool:
    """Returns whether a process group has any process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_full_disk_is_one_line_and_leaves_nothing(films: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount the small disk that the test fills")
    try:
        # The spool of raw images does not fit. The spool of JPEGs fits, but not the shards beside it.
        for encoding in ("raw", "jpeg"):
            line = refusal(films / "films.csv", disk / "dataset", f"--encoding={encoding}", images=films / "posters")
            assert str(disk) in line
            assert "free some space" in line
            assert not tree(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, (), r"nowhere\.csv does not exist"),
        ("", (), "is empty"),
        ("id,genre\n", (), "no row"),
        ("id,title\ntt1,Alien\n", (), "no column holds genres among 'id', 'title'"),
        ("id,genre\ntt1,Drama\n", ("--images=nowhere",), "--images=nowhere does not exist"),
        ("id,genre\ntt1,Drama\n", (), "--images is missing, but row 1 names the image 'tt1': name the folder or archive"),
        (
            "id,genre\ntt1,Drama\n",
            ("--images=.",),
            r"no row of the CSV became an example \(1 of 1 were rejected as no_picture, for example row 1:",
        ),
        ("id,genre\ntt1,Drama\n", ("--images=.", "--height=31"), "height"),
        ("id,genre\ntt1,Drama\n", ("--images=.", "--width=31"), "width"),
        ("id,genre\ntt1,Drama\n", ("--images=.", "--encoding=gif"), "encoding"),
        ("id,genre\ntt1,Drama\n", ("--images=.", "stray"), "'stray' is not a flag"),
        ("id,genre\ntt1,Drama\n", ("--images=nonsense://posters",), "nonsense://posters: Protocol not known: nonsense"),
        (
            "id,genre\ntt1,Drama\n",
            ("--images=.", "--cache_dir=gs://bucket/cache"),
            "--cache_dir=gs://bucket/cache is not on a local disk: name a local folder",
        ),
    ],
)
def test_what_the_user_must_change_is_one_line(tmp_path: Path, content: str | None, flags: tuple[str, ...], message: str):
    csv_path = tmp_path / ("nowhere.csv" if content is None else "films.csv")
    if content is not None:
        csv_path.write_text(content)
    line = refusal(csv_path, tmp_path / "dataset", *flags)
    assert re.search(message, line), line
    assert not tree(tmp_path / "dataset")


def test_real_posters_are_all_accounted_for(tmp_path: Path):
    if not REAL_POSTERS.exists():
        pytest.skip("the real posters are not part of the repository, and not beside it")
    result = prepare(REAL_POSTERS / "train.csv", tmp_path, images=REAL_POSTERS / "Images")
    assert counts(result.stdout)["rows read"] == 500
    assert_adds_up(result.stdout, tmp_path)
    assert "N/A" not in manifest.load(tmp_path).genres
