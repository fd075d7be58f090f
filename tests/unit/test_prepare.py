"""trainer.prepare: which flags it takes, what it says before and after its work, and what it writes."""

import csv
import re
import signal
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

from tests.support import inline, own_flags
from tests.support.locales import ascii_only
from trainer.dataset import manifest
from trainer.errors import Stopped, UserError
from trainer.sources import web

FILMS = 30


@pytest.fixture
def films(tmp_path):
    """A folder with films.csv and posters/, in which the image of the last film is missing."""
    (tmp_path / "posters").mkdir()
    with (tmp_path / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Id", "Genre"))
        for number in range(FILMS + 1):
            if number < FILMS:
                Image.new("RGB", (20, 30), (number * 8, 255 - number * 8, 0)).save(tmp_path / "posters" / f"tt{number}.png")
            writer.writerow((f"tt{number}", "Drama|War" if number % 2 else "Drama"))
    return tmp_path


@pytest.fixture
def prepare(films, monkeypatch, capsys):
    """Returns a function that runs the command in this process and returns what it printed."""
    inline.decoding_pool(monkeypatch)

    def run(*arguments, csv_path=None):
        places = (f"--csv={csv_path or films / 'films.csv'}", f"--output={films / 'data'}")
        own_flags.load(monkeypatch, "trainer.prepare", *places, *arguments).main([])
        return capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """The handlers of signals by their numbers; the tests' own process keeps its."""
    found = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: found.update({number: handler}))
    return found


def images(films):
    return f"--images={films / 'posters'}"


def test_what_was_chosen_is_said_before_the_work_and_the_result_after_it(films, prepare):
    said = prepare(images(films))
    chosen, _, work = said.err.partition("decoding images")
    assert work
    assert chosen.splitlines() == [
        f"{films}/films.csv: 31 rows",
        "  file: read as UTF-8, comma-separated, with a header",
        "  id: Id (31 of 31 distinct, 30 match a file), in row 1: 'tt0'",
        '  genres: Genre, separated by "|" (2 genres), in row 1: Drama',
        "  splits: 80 % train, 10 % validation, 10 % test, by a hash of the id",
        "  posters: resized to 192 × 128 pixels (height × width), stored as jpeg",
    ]
    dataset = manifest.load(films / "data")
    train, validation, test = (dataset.splits[name].examples for name in manifest.SPLITS)
    assert train + validation + test == FILMS
    rows, genres, duplicates, conclusion = said.out.rstrip("\n").split("\n\n")
    assert [line.split() for line in rows.splitlines()] == [
        ["rows", "read", "31"],
        ["examples", "in", "train", str(train)],
        ["examples", "in", "validation", str(validation)],
        ["examples", "in", "test", str(test)],
        ["rejected:", "no_picture", "1"],
    ]
    counts = [[str(split.genre_counts[genre]) for split in dataset.splits.values()] for genre in ("Drama", "War")]
    assert [line.split() for line in genres.splitlines()] == [
        ["films", "with", "genre", "train", "validation", "test", "all"],
        ["Drama", *counts[0], "30"],
        ["War", *counts[1], "15"],
    ]
    assert [" ".join(line.split()) for line in duplicates.splitlines()] == [
        "posters of test that also occur in train 0",
        "posters of test that also occur in validation 0",
        "posters of validation that also occur in train 0",
    ]
    assert conclusion.splitlines() == [
        f"Rejected 1 of 31 rows; {films}/data/rejects.csv gives the reason for each. Examples:",
        "  no_picture  row 31: no image 'tt30' in the folder",
        f"The data set is in {films}/data: 30 films, 2 genres.",
        f"See whether images and genres fit their films: {films}/data/preview.html",
    ]
    assert "warning" not in said.err


def test_the_folder_of_the_data_set_holds_its_tables(films, prepare):
    prepare(images(films))
    assert (films / "data" / "rejects.csv").read_text() == (
        "row,id,reason,detail\n31,tt30,no_picture,no image 'tt30' in the folder\n"
    )
    assert (films / "data" / "near_duplicates.csv").read_text() == "id,split,other_id,other_split,distance\n"


def test_a_data_set_is_in_utf_8_whatever_the_locale(films, prepare):
    (films / "films.csv").write_text("id,genre\ntt0,Comédie\ntt1,Comédie\n", encoding="utf-8")
    with ascii_only():
        prepare(images(films))
    assert manifest.load(films / "data").genres == ("Comédie",)


def test_without_a_reject_only_the_place_is_said(films, prepare):
    Image.new("RGB", (20, 30)).save(films / "posters" / "tt30.png")
    out = prepare(images(films)).out
    assert out.endswith(
        f"  0\n\nThe data set is in {films}/data: 31 films, 2 genres.\n"
        f"See whether images and genres fit their films: {films}/data/preview.html\n"
    )
    assert "ejected" not in out


def test_the_flags_reach_the_data_set(films, prepare):
    prepare(
        images(films), "--height=40", "--width=33", "--encoding=raw", "--shards=3", "--min_examples=16", "--genres_column=Genre"
    )
    dataset = manifest.load(films / "data")
    assert (dataset.height, dataset.width, dataset.encoding, dataset.genres) == (40, 33, "raw", ("Drama",))
    assert len(dataset.splits["train"].shards) == 3
    with pytest.raises(UserError, match="add --overwrite"):
        prepare(images(films))
    prepare(images(films), "--overwrite")
    assert manifest.load(films / "data").height == 192


def test_columns_can_be_named(films, prepare):
    with (films / "more.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "poster", "a", "b", "Drama", "War", "adult", "c"))
        for number in range(10):
            writer.writerow((number, "", f"film {number}", f"tt{number}", 1, number % 2, 0, "train" if number < 8 else "val"))
    said = prepare(
        *(images(films), "--id_column=a", "--image_column=b", "--label_columns=Drama,War", "--split_column=c"),
        csv_path=films / "more.csv",
    )
    for line in (
        "  id: a (10 of 10 distinct), in row 1: 'film 0'",
        "  genres: columns of 0 and 1: Drama, War (2 genres), in row 1: Drama",
        "  images: b (10 match a file), in row 1: 'tt0'",
        "  splits: c",
    ):
        assert line in said.err.splitlines()
    dataset = manifest.load(films / "data")
    assert {name: split.examples for name, split in dataset.splits.items()} == {"train": 8, "validation": 2, "test": 0}
    assert "warning: the split 'test' has no example: prepare more films\n" in said.err
    assert said.err.count("warning") == 1


def test_a_file_without_header_or_delimiter_is_described(films, prepare):
    (films / "lines.txt").write_text("tt0 Drama War\ntt1 Drama\ntt2 War\n")
    said = prepare(images(films), csv_path=films / "lines.txt").err
    assert "  file: read as UTF-8, an id, a blank and the genres in each line, without a header: columns are called by" in said


def test_a_password_in_the_url_of_an_image_is_not_shown(films, prepare, monkeypatch):
    (films / "urls.csv").write_text("id,genre,poster\ntt0,Drama,https://me:pa55@films.example/tt0.png?signature=pa55\n")
    monkeypatch.setattr(web, "download", lambda urls, cache_dir: dict.fromkeys(urls, films / "posters" / "tt0.png"))
    said = prepare(csv_path=films / "urls.csv")
    assert "https://films.example/tt0.png" in said.err
    assert "pa55" not in said.err + said.out


def test_images_of_the_web_are_kept_where_the_user_says(films, prepare, monkeypatch):
    (films / "urls.csv").write_text("id,genre,poster\ntt0,Drama,https://films.example/tt0.png\n")
    monkeypatch.setenv("HOME", str(films))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folders = []

    def download(urls, cache_dir):
        folders.append(cache_dir)
        return dict.fromkeys(urls, films / "posters" / "tt0.png")

    monkeypatch.setattr(web, "download", download)
    prepare(csv_path=films / "urls.csv")
    prepare("--overwrite", "--cache_dir=~/kept", csv_path=films / "urls.csv")
    assert folders == [films / ".cache" / "poster-trainer" / "pictures", films / "kept"]
    with pytest.raises(UserError, match=r"^--cache_dir=s3://host/cache is not on a local disk: name a local folder$"):
        prepare("--cache_dir=s3://me:pa55@host/cache?pa55", csv_path=films / "urls.csv")


def test_a_csv_without_a_film_shows_no_example(films, prepare):
    (films / "none.csv").write_text("id,genre\ntt0,N/A\n")
    with pytest.raises(UserError, match="no row of the CSV became an example"):
        prepare(images(films), csv_path=films / "none.csv")


@pytest.mark.parametrize(
    ("flag", "is_valid"),
    [
        *(("--height=31", False), ("--height=32", True), ("--height=4096", True), ("--height=4097", False)),
        *(("--width=31", False), ("--width=32", True), ("--width=4096", True), ("--width=4097", False)),
        *(("--shards=0", False), ("--shards=1", True), ("--min_examples=0", False), ("--min_examples=1", True)),
        *(("--encoding=gif", False), ("--encoding=raw", True)),
    ],
)
def test_the_range_of_a_flag(monkeypatch, flag, is_valid):
    command = ("trainer.prepare", "--csv=films.csv", "--output=data", flag)
    if is_valid:
        own_flags.load(monkeypatch, *command)
    else:
        with pytest.raises(flags.IllegalFlagValueError):
            own_flags.load(monkeypatch, *command)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--csv=films.csv", "--output is missing: name the folder for the data set, --output=FOLDER, or add --dry_run"),
        ("--output=data", "--csv and --images are missing: name the CSV of the films, --csv=FILE, and the folder of their images"),
    ],
)
def test_the_films_and_the_output_must_be_named(monkeypatch, given, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        own_flags.load(monkeypatch, "trainer.prepare", given).main([])


def test_a_word_that_is_no_flag_is_refused(monkeypatch):
    command = own_flags.load(monkeypatch, "trainer.prepare", "--csv=films.csv", "--output=data")
    with pytest.raises(UserError, match=r"^'stray' is not a flag of trainer\.prepare: write options as --name=value$"):
        command.main(["stray"])


def test_a_signal_to_stop_ends_the_run_and_says_that_nothing_is_left(films, prepare, handlers):
    prepare(images(films))
    with pytest.raises(Stopped, match=r"^SIGTERM received; no half-written data set is left, and the same command starts again$"):
        handlers[signal.SIGTERM](signal.SIGTERM, None)


def test_a_url_that_is_not_storage_is_no_output(prepare, films):
    with pytest.raises(UserError, match=r"^--output=s3://… is not supported"):
        prepare("--output=s3://bucket/data")
    assert not Path(films / "data").exists()
