"""Draws posters of invented films, as a small set to try every command on: `python -m trainer.demo --output=DIR`.

The genres can be learnt from colour, scene and lettering, but not perfectly: the poster of a film with several genres mixes their
features, and some films have a wrong label. So the set shows within minutes that preparation, training, evaluation and serving
work together, and that a network learns more than the frequencies of the genres. It says nothing about real posters, whose genres
are much harder to learn.

The CSV has the columns and the peculiarities of real files: genres joined by `|`, Latin-1 with accents, films without a genre, a
row that occurs twice.
"""

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from etils import epath

from trainer.demo import posters
from trainer.errors import Stopped, UserError
from trainer.process import entry
from trainer.process.progress import progress
from trainer.storage import files, urls

_OUTPUT = flags.DEFINE_string(
    "output", None, "The local folder for films.csv and posters/. It is created if it does not exist.", required=True
)
_FILMS = flags.DEFINE_integer("films", 600, "The number of films.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1, "The seed of the random numbers; another seed draws other films.")

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
_MISLABELLED = 0.1  # The share of films of which the CSV lacks a genre, or has one that the poster does not show.

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
class InventedFilm:
    """An invented film.

    Attributes:
      imdb_id: the film's id, a number without `tt`.
      title: the film's title.
      score: the film's IMDb score, 3 to 9.
      drawn: the genres that the poster shows.
      genres: the genres that the CSV names.
    """

    imdb_id: int
    title: str
    score: float
    drawn: tuple[str, ...]
    genres: tuple[str, ...]

    @property
    def poster(self) -> str:
        """The path of the film's poster, relative to the CSV."""
        return f"posters/{self.imdb_id}.jpg"


def main(arguments: Sequence[str]) -> None:
    """Draws the set that the flags describe."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag of trainer.demo: write options as --name=value")
    if "://" in _OUTPUT.value:
        raise UserError(f"--output={urls.shown(_OUTPUT.value)} is not on a local disk: name a local folder")
    folder = Path(epath.Path(_OUTPUT.value).expanduser())
    write(folder, invent(_FILMS.value, seed=_SEED.value), seed=_SEED.value)
    print(f"{folder} holds films.csv and posters/ with {_FILMS.value:,} posters")


def invent(count: int, *, seed: int) -> list[InventedFilm]:
    """Invents films.

    The same seed gives the same films, and a larger count adds films at the end.

    Args:
      count: the number of films.
      seed: the seed of the random numbers.
    """
    return [_invent_one(90_000_001 + number, random.Random(f"film {number} of {seed}")) for number in range(count)]


def write(folder: Path, films: Sequence[InventedFilm], *, seed: int) -> None:
    """Draws the posters and writes posters/*.jpg and, last, films.csv.

    So a folder with a films.csv is complete. The same films and seed give the same bytes with the same version of Pillow.

    Args:
      folder: the folder for films.csv and posters/; it is created if it does not exist.
      films: the films.
      seed: the seed of the random numbers with which the posters are drawn.

    Raises:
      Stopped: Ctrl-C interrupted the drawing; the posters drawn so far stay in the folder, without a films.csv.
    """
    csv_path = epath.Path(folder) / "films.csv"
    drawn = 0
    try:
        (folder / "posters").mkdir(parents=True, exist_ok=True)
        files.remove(csv_path)
        for film in progress(films, total=len(films), what="drawing posters"):
            rng = random.Random(f"poster {film.imdb_id} of {seed}")
            posters.draw(film.title, film.drawn, rng).save(folder / film.poster, quality=88)
            drawn += 1
        files.write(csv_path, _csv(films))
    except KeyboardInterrupt:
        raise Stopped(
            f"interrupted after {drawn:,} of {len(films):,} posters, which stay in {folder}/posters; films.csv is not written: "
            "run the same command again to draw all"
        ) from None


def _csv(films: Sequence[InventedFilm]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(films))
    return text.getvalue().encode("latin-1")


def csv_rows(films: Sequence[InventedFilm]) -> list[dict[str, str | int | float]]:
    """Returns the rows of films.csv: every 200th film has no genre, and the row in the middle occurs again at the end."""
    rows: list[dict[str, str | int | float]] = [
        {
            "imdbId": film.imdb_id,
            "Imdb Link": f"http://www.imdb.com/title/tt{film.imdb_id}",
            "Title": film.title,
            "IMDB Score": film.score,
            "Genre": "|".join(film.genres) if number % 200 else "",
            "Poster": film.poster,
        }
        for number, film in enumerate(films, start=1)
    ]
    return [*rows, rows[len(rows) // 2]]


def _invent_one(imdb_id: int, rng: random.Random) -> InventedFilm:
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
    return InventedFilm(imdb_id, title, score, tuple(drawn), tuple(genre for genre in _WEIGHTS if genre in genres))


if __name__ == "__main__":
    entry.run(main)
