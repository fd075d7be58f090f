"""Draws a small set of film posters to try everything on: `python -m trainer.demo --output=DIR`.

The posters are drawn, their films invented. Their genres can be learnt from colour, scene and lettering, but not perfectly:
a film with several genres mixes their cues, and some films carry a wrong label. So the set shows in minutes that data,
training, evaluation and serving work together and that a network learns more than how common the genres are. It says
nothing about real posters, where the same network finds far less to go by.

The CSV has the columns and the quirks of files in the wild: genres joined by `|`, Latin-1 with accents, films without a
genre, a row that comes twice.
"""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from trainer.demo import posters
from trainer.process import entry
from trainer.process.progress import progress

_OUTPUT = flags.DEFINE_string("output", None, "Folder that gets films.csv and posters/.", required=True)
_FILMS = flags.DEFINE_integer("films", 600, "How many films.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "Another seed draws other films.")

# How often a genre is drawn, relative to the others: as uneven as in real collections.
_WEIGHTS = {
    "Drama": 40,
    "Comedy": 32,
    "Romance": 18,
    "Horror": 15,
    "Sci-Fi": 13,
    "Documentary": 10,
    "Animation": 10,
    "Western": 8,
}
_WEIGHTS_OF_GENRE_COUNTS = {1: 45, 2: 40, 3: 15}
_MISLABELLED = 0.1  # Of the films: one of their genres is missing from the CSV, or one is there that was not drawn.

_COLUMNS = ("imdbId", "Imdb Link", "Title", "IMDB Score", "Genre", "Poster")
_ADJECTIVES = ("Silent", "Golden", "Last", "Hidden", "Broken", "Distant", "Crimson", "Second", "Burning", "Long")
_NOUNS = {
    "Drama": ("River", "Daughter", "Winter", "Témoin", "Promise"),
    "Comedy": ("Wedding", "Neighbours", "Fiancée", "Holiday", "Butler"),
    "Romance": ("Letter", "Summer", "Café", "Señorita", "Kiss"),
    "Horror": ("Cellar", "Whisper", "Night", "Château", "Grave"),
    "Sci-Fi": ("Orbit", "Colony", "Signal", "Machine", "Exodus"),
    "Documentary": ("Harbour", "Archive", "Glacier", "Strike", "Museum"),
    "Animation": ("Dragon", "Balloon", "Noël", "Penguin", "Kingdom"),
    "Western": ("Rider", "Canyon", "Sheriff", "Frontier", "Río"),
}


@dataclass(frozen=True)
class Film:
    """An invented film. `drawn` are the genres that its poster shows, `genres` those that the CSV names."""

    imdb_id: int
    title: str
    score: float
    drawn: tuple[str, ...]
    genres: tuple[str, ...]

    @property
    def poster(self) -> str:
        """The path of its poster, relative to the CSV."""
        return f"posters/{self.imdb_id}.jpg"


def main(arguments: Sequence[str]) -> None:
    """Draws the set that the flags ask for."""
    del arguments
    write(Path(_OUTPUT.value), invent(_FILMS.value, seed=_SEED.value), seed=_SEED.value)


def invent(count: int, *, seed: int) -> list[Film]:
    """Invents films; the same seed gives the same films, and more of them begin with the same ones."""
    return [_invent_one(90_000_001 + place, random.Random(f"film {place} of {seed}")) for place in range(count)]


def write(folder: Path, films: Sequence[Film], *, seed: int) -> None:
    """Writes posters/*.jpg and, last, films.csv; the same films and seed give the same bytes on one version of PIL."""
    (folder / "posters").mkdir(parents=True, exist_ok=True)
    for film in progress(films, total=len(films), what="drawing posters"):
        rng = random.Random(f"poster {film.imdb_id} of {seed}")
        posters.draw(film.title, film.drawn, rng).save(folder / film.poster, quality=88)
    with (folder / "films.csv").open("w", encoding="latin-1", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_rows(films))


def csv_rows(films: Sequence[Film]) -> list[dict[str, str | int | float]]:
    """What films.csv says of the films: each 200th has no genre, and the row in the middle comes again at the end."""
    rows: list[dict[str, str | int | float]] = [
        {
            "imdbId": film.imdb_id,
            "Imdb Link": f"http://www.imdb.com/title/tt{film.imdb_id}",
            "Title": film.title,
            "IMDB Score": film.score,
            "Genre": "|".join(film.genres) if place % 200 else "",
            "Poster": film.poster,
        }
        for place, film in enumerate(films, start=1)
    ]
    return [*rows, rows[len(rows) // 2]]


def _invent_one(imdb_id: int, rng: random.Random) -> Film:
    (count,) = rng.choices(list(_WEIGHTS_OF_GENRE_COUNTS), list(_WEIGHTS_OF_GENRE_COUNTS.values()))
    drawn: list[str] = []
    while len(drawn) < count:
        (genre,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        if genre not in drawn:
            drawn.append(genre)
    genres = set(drawn)
    if rng.random() < _MISLABELLED:
        others = [genre for genre in _WEIGHTS if genre not in genres]
        genres ^= {rng.choice(drawn if len(drawn) > 1 else others)}
    noun, adjective = rng.choice(_NOUNS[drawn[0]]), rng.choice(_ADJECTIVES)
    other = rng.choice([word for word in _NOUNS[drawn[-1]] if word != noun])
    title = rng.choice((f"The {adjective} {noun}", f"{adjective} {noun}", f"{noun} of the {adjective} {other}"))
    score = round(rng.uniform(3, 9), 1)
    return Film(imdb_id, title, score, tuple(drawn), tuple(genre for genre in _WEIGHTS if genre in genres))


if __name__ == "__main__":
    entry.run(main)
