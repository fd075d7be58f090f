"""CSVs in the forms that people publish: `python -m trainer.prepare` gives each film its own image and its genres.

Each kind of form has a few films here, whose images the test draws: every file has a colour of its own.
"""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from tests.support import commands
from trainer.dataset import manifest

IDS = (7, 3, 19, 12, 25, 1)
GENRES = (("Drama", "War"), ("Comedy",), ("Drama",), ("Comedy", "War"), ("Crime", "Drama"), ("War",))
JPGS = tuple(f"{number}.jpg" for number in IDS)


def colour(name):
    """Returns the colour of a file: one of 4,096 that JPEG does not change much."""
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(value // 16 * 16 for value in digest[:3])


def films(*lines, files=JPGS, genres=GENRES):
    """Returns the lines of a CSV, in which {0} to {5} are lists of genres, and what each file shows: its genres."""
    return "\n".join(lines) + "\n", dict(zip(files, genres, strict=True))


def rows(pattern, separator="|"):
    """Returns a line for each film, of its number {n}, id {id} and genres {genres}."""
    return [
        pattern.format(n=number, id=film, genres=separator.join(genres))
        for number, (film, genres) in enumerate(zip(IDS, GENRES, strict=True))
    ]


LOWER = tuple(tuple(genre.lower() for genre in genres) for genres in GENRES)
FILMS = list(zip(IDS, GENRES, strict=True))
VERTEX = [f"{('TRAIN', 'TEST')[n % 2]},gs://b/{film}.jpg,{','.join(genres)}" for n, (film, genres) in enumerate(FILMS)]
LONG = sorted(f"{film},{genre}" for film, genres in FILMS for genre in genres)
RUSSIAN = (("драма", "военный"), ("комедия",), ("драма",), ("комедия", "военный"), ("криминал", "драма"), ("военный",))
OPEN_QUOTE = [line.replace("Film 2", '"Film 2') for line in rows("{id},Film {n},{genres}")]

KINDS = {
    # Which column names the files.
    "A: an index beside the id": films(",anime_id,genre", *rows("{n},{id},{genres}")),
    "A: a rank and a year": films("Rank,Year,key,genre", *rows("{n},{n},{id},{genres}")),
    # Quotation marks that quote nothing.
    "B: IMDb knows no quoting": films("tconst\tname\tgenres", *rows('{id}\t"Film" {n}\t{genres}', ",")),
    "B: a mark that is never closed": films("id,title,genres", *OPEN_QUOTE),
    # Where the genres are, and in what form.
    "C: a row for each genre": films("id,genre", *LONG),
    "D: a column for each place": films(
        "id,genre1,genre2", *(f"{film},{','.join((*genres, 'N/A')[:2])}" for film, genres in FILMS)
    ),
    "E: slashes": films("id,genres", *rows("{id},{genres}", " / ")),
    "E: blanks": films("id,tags", *(line.lower() for line in rows("{id},{genres}", " ")), genres=LOWER),
    "E: one class with commas": films(
        "id,genre", *(f'{film},"Food, Wine & {film % 2}"' for film in IDS), genres=[(f"Food, Wine & {film % 2}",) for film in IDS]
    ),
    "F: sets": films("id,genres", *(f'{film},"{set(genres)}"' for film, genres in FILMS)),
    "F: PostgreSQL": films("id,genres", *rows('{id},"{{{genres}}}"', ",")),
    # How images are named.
    "G: paths of another machine": films("path,genres", *rows("C:\\Users\\me\\{id}.jpg,{genres}")),
    "G: TMDB": films("poster_path,genres", *rows("/{id}.jpg,{genres}")),
    "H: files come before addresses": films("poster,genres", *rows("http://127.0.0.1:9/{id}.jpg,{genres}")),
    "M: case and extension": films("image,genres", *rows("{id}.JPG,{genres}"), files=[f"{film}.jpeg" for film in IDS]),
    "L: floats": films("imdb,genres", *rows("{id}.0,{genres}"), files=[f"tt{film:07d}.jpg" for film in IDS]),
    # The file.
    "J: Windows-1251": films(
        "id,genres", *(f'{film},"{", ".join(genres)}"' for film, genres in zip(IDS, RUSSIAN, strict=True)), genres=RUSSIAN
    ),
    "K: Vertex AI": films(*VERTEX),
    "K: JSON Lines": films(*(json.dumps({"file_name": f"{film}.jpg", "labels": genres}) for film, genres in FILMS)),
    "N: two colons": films(*rows("{id}::The Film: {n}::{genres}")),
    "P: a long cell": films("id,plot,genres", *rows('{id},"' + "word, " * 30_000 + '",{genres}')),
}


def prepared(tmp_path, text, files, *flags, encoding="utf-8"):
    for name in files:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 96), colour(name)).save(tmp_path / "images" / name, "JPEG", quality=95)
    (tmp_path / "films.csv").write_bytes(text.encode(encoding))
    folders = (f"--csv={tmp_path / 'films.csv'}", f"--images={tmp_path / 'images'}", f"--output={tmp_path / 'data'}")
    return commands.run("trainer.prepare", *folders, "--height=48", "--width=32", "--encoding=raw", *flags)


def shown(folder, files):
    """Returns the genres of each file, by what the examples show."""
    import tensorflow as tf

    found = {}
    dataset = manifest.load(folder)
    for split in (name for name in manifest.SPLITS if dataset.splits[name].examples):
        for record in tf.data.TFRecordDataset(dataset.shard_paths(split)):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            pixel = np.frombuffer(feature["image/encoded"].bytes_list.value[0], np.uint8)[:3].astype(int)
            (name,) = [name for name in files if np.abs(pixel - colour(name)).max() <= 4]
            found[name] = tuple(text.decode() for text in feature["image/label_text"].bytes_list.value)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_film_gets_its_own_image_and_its_genres(tmp_path, kind):
    text, expected = KINDS[kind]
    flags = ["--genre_separator=none"] if "class" in kind else []
    prepared(tmp_path, text, expected, *flags, encoding="cp1251" if "1251" in kind else "utf-8")
    found = shown(tmp_path / "data", expected)
    assert {name: sorted(genres) for name, genres in found.items()} == {name: sorted(genres) for name, genres in expected.items()}
    with (tmp_path / "data" / "rejects.csv").open() as file:
        assert list(csv.DictReader(file)) == []


def test_a_dry_run_says_what_was_understood_and_writes_nothing(tmp_path):
    text, files = KINDS["A: a rank and a year"]
    done = prepared(tmp_path, text, files, "--dry_run")
    assert "  id: key (6 of 6 distinct, 6 match a file), in row 1: '7'\n" in done.stderr
    assert done.stdout.splitlines() == [
        "The first films:",
        *(
            f"  row {number + 1}: id '{film}': {', '.join(genres)}; image {film}.jpg"
            for number, (film, genres) in enumerate(FILMS[:5])
        ),
    ]
    assert not (tmp_path / "data").exists()
