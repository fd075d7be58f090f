"""preview.html of a data set: some of its films with their images, on one page, so that a wrong image or genre is seen."""

import base64
import importlib.resources
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from trainer.catalog.catalog import Film
from trainer.dataset.manifest import Dataset
from trainer.images import decode

FILE = "preview.html"
FILMS = 48  # How many films the page shows.

_MOST_PIXELS = 60_000  # For example 300 × 200. 48 real posters of this size make a page of some 2 MB.


@dataclass(frozen=True)
class Shown:
    """A film of the page.

    Attributes:
      id: the film's id.
      title: the film's title; None if the CSV gives none.
      genres: the film's genres that the data set has.
      split: the split that holds the film.
      image: the image as stored, or a smaller copy: a JPEG file.
    """

    id: str
    title: str | None
    genres: tuple[str, ...]
    split: str
    image: bytes


def write(path: Path, dataset: Dataset, films: Mapping[str, Sequence[Film]], read_image: Callable[[Film], bytes]) -> None:
    """Writes preview.html. The bytes depend on the films and their images alone.

    Args:
      path: the file to write.
      dataset: the data set.
      films: the films of each split, in an order that does not depend on the CSV's.
      read_image: a function that returns a film's image as the shards hold it. It is called for the films of the page alone.
    """
    shown = [
        Shown(
            film.id,
            film.title,
            tuple(genre for genre in film.genres if genre in dataset.genres),
            split,
            _for_page(read_image(film), dataset),
        )
        for split, film in choose(films, {name: split.genre_counts for name, split in dataset.splits.items()})
    ]
    # A genre from a JSON list may hold half of a surrogate pair, which UTF-8 cannot express.
    path.write_bytes(page(dataset, shown).encode("utf-8", "replace"))


def choose(films: Mapping[str, Sequence[Film]], genre_counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Film]]:
    """Chooses the films of the page, evenly from the genres and splits.

    First, from the rarest genre to the commonest, each genre that no chosen film has gets a film, from the split with the fewest
    chosen films. Then the split with the fewest chosen films gets one more, of the genre that the fewest chosen films have. Of
    several films the one is taken whose other genres are chosen least.

    Args:
      films: the films of each split; the first ones are preferred.
      genre_counts: for each split, the number of films by genre, for all genres of the data set.

    Returns:
      The split and the film, `FILMS` times, or for all films if there are fewer; in the order of choice.
    """
    total: Counter[str] = Counter()
    for counts in genre_counts.values():
        total.update(counts)
    genres = sorted(total, key=lambda genre: (total[genre], genre))
    by_genre = {split: _first_by_genre(members, total) for split, members in films.items()}
    chosen: dict[str, tuple[str, Film]] = {}
    of_genre, of_split = Counter(dict.fromkeys(genres, 0)), Counter(dict.fromkeys(films, 0))

    def choose_one(genre: str, split: str) -> bool:
        left = (film for film in by_genre[split].get(genre, ()) if film.id not in chosen)
        film = min(left, key=lambda film: max(of_genre[genre] for genre in film.genres), default=None)
        if film is None:
            return False
        chosen[film.id] = split, film
        of_split[split] += 1
        of_genre.update(genre for genre in film.genres if genre in total)
        return True

    def splits() -> list[str]:
        return sorted(films, key=of_split.__getitem__)

    for genre in genres:
        if not of_genre[genre] and len(chosen) < FILMS:
            any(choose_one(genre, split) for split in splits())
    while len(chosen) < FILMS:
        pairs = ((genre, split) for split in splits() for genre in sorted(genres, key=of_genre.__getitem__))
        if not any(choose_one(genre, split) for genre, split in pairs):
            break
    return list(chosen.values())


def _first_by_genre(films: Iterable[Film], genres: Container[str]) -> dict[str, list[Film]]:
    """Returns the first films of each genre: so many that one is left, if there is one, whatever others are chosen."""
    first: dict[str, list[Film]] = {}
    for film in films:
        for genre in film.genres:
            of_genre = first.get(genre)
            if of_genre is None:
                if genre in genres:
                    first[genre] = [film]
            elif len(of_genre) < 2 * FILMS:
                of_genre.append(film)
    return first


def _for_page(image: bytes, dataset: Dataset) -> bytes:
    """Returns a stored image as a JPEG file that is no larger than the page needs."""
    height, width = dataset.height, dataset.width
    scale = min(1, math.sqrt(_MOST_PIXELS / (height * width)))
    if dataset.encoding == "jpeg" and scale == 1:
        return image
    smaller = {"height": round(scale * height), "width": round(scale * width)}
    if dataset.encoding == "jpeg":
        return decode.encode_jpeg(decode.resize(decode.decode(image, **smaller), **smaller))
    pixels = np.frombuffer(image, np.uint8).reshape(height, width, 3)
    return decode.encode_jpeg(pixels if scale == 1 else decode.resize(Image.fromarray(pixels), **smaller))


def page(dataset: Dataset, shown: Sequence[Shown]) -> str:
    """Returns the page: HTML that loads nothing and runs no script.

    Args:
      dataset: the data set.
      shown: the films to show, in this order within each split.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_uri"] = lambda jpeg: f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    environment.filters["thousands"] = lambda number: f"{number:,}"
    template = importlib.resources.files(__package__).joinpath("preview.html.j2").read_text("utf-8")
    counts = {genre: [split.genre_counts[genre] for split in dataset.splits.values()] for genre in dataset.genres}
    return environment.from_string(template).render(
        dataset=dataset,
        films=sum(split.examples for split in dataset.splits.values()),
        shown=shown,
        counts=dict(sorted(counts.items(), key=lambda entry: (-sum(entry[1]), entry[0]))),
    )
