"""From the films of a CSV to the shards of a data set."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from etils import epath

from trainer.catalog import cells
from trainer.catalog.catalog import Catalog, Film
from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Split
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError
from trainer.images import perceptual_hash
from trainer.images.decode import ImageError
from trainer.preparation import decoding, duplicate_search, splits, writing
from trainer.preparation.decoding import Stored
from trainer.preparation.output import Output
from trainer.sources import folders, web
from trainer.sources.lookup import ImageFile

_T = TypeVar("_T")

# The trainer opens so many training shards at a time; the other splits are read by a few readers at once.
_SHARDS_MULTIPLE = {"train": 16, "validation": 4, "test": 4}


@dataclass(frozen=True)
class Settings:
    """What a data set is to be.

    Attributes:
      height: of the stored pictures, in pixels.
      width: of the stored pictures, in pixels.
      encoding: one of `manifest.ENCODINGS`.
      min_examples: genres with fewer films, over all splits, are left out; at least 1.
      train_shards: how many shards the training split gets; None for a multiple of 16, of 100 MB each at most.
    """

    height: int
    width: int
    encoding: str
    min_examples: int
    train_shards: int | None


def build(
    catalog: Catalog, output: Output, settings: Settings, *, images: str | None, cache_dir: Path
) -> tuple[Dataset, list[Reject], list[NearDuplicate]]:
    """Finds, decodes and resizes the pictures of films and writes the shards.

    The encoded pictures pass through a file in the output's folder: which shard a film belongs to is known only when all of them
    are decoded. So the folder takes the space of the data set once more than what the output leaves there.

    Args:
      catalog: the films.
      output: where to; its folder is empty.
      settings: what the data set is to be.
      images: the folder or archive of the pictures, as `folders.open_images` takes it; None if all are on the web.
      cache_dir: keeps the pictures from the web.

    Returns:
      What dataset.json is to say, all rows that are no example, and the examples whose poster also occurs in another split.

    Raises:
      UserError: no film is left, or fewer than the shards that were asked for; or a folder of pictures is needed and there is none.
      LostService: what holds the pictures or takes the data set does not answer.
    """
    rejected = list(catalog.rejects)
    found = _good(catalog.films, _find(catalog.films, images, cache_dir), rejected)
    spool_path = output.folder / "images.spool"
    with spool_path.open("w+b") as spool:
        encoded = decoding.store(
            [image for _, image in found],
            spool,
            height=settings.height,
            width=settings.width,
            encoding=settings.encoding,
        )
        stored = _good([film for film, _ in found], encoded, rejected)
        dataset, duplicates = _write(output, stored, spool, settings, rejected)
    spool_path.unlink()
    return dataset, rejected, duplicates


def _find(films: Sequence[Film], images: str | None, cache_dir: Path) -> list[ImageFile | ImageError]:
    """Returns where each film's picture is."""
    local = next((film for film in films if not cells.is_url(film.image)), None)
    if local is not None and images is None:
        raise UserError(f"--images is not given, and row {local.row} names the image {local.image!r}: give its folder")
    folder = folders.open_images(images) if images is not None else None
    fetched = web.download([film.image for film in films if cells.is_url(film.image)], cache_dir=cache_dir)
    found: list[ImageFile | ImageError] = []
    for film in films:
        if folder is None or cells.is_url(film.image):
            file = fetched[film.image]
            found.append(file if isinstance(file, ImageError) else folders.LocalFile(file))
            continue
        try:
            found.append(folder.find(film.image))
        except ImageError as error:
            found.append(error)
    return found


def _good(films: Iterable[Film], results: Iterable[_T | ImageError], rejected: list[Reject]) -> list[tuple[Film, _T]]:
    """Returns the films that have a result, and adds the others to the rejects."""
    good = []
    for film, result in zip(films, results, strict=True):
        if isinstance(result, ImageError):
            rejected.append(Reject(film.row, film.id, result.reason, result.detail))
        else:
            good.append((film, result))
    return good


def _frequent_genres(films: Iterable[Film], min_examples: int) -> tuple[str, ...]:
    """Returns the genres that enough films have, in the order of their code points, which is that of their bytes in UTF-8."""
    counts = Counter(genre for film in films for genre in film.genres)
    return tuple(sorted(genre for genre, count in counts.items() if count >= min_examples))


def _write(
    output: Output, images: Sequence[tuple[Film, Stored]], spool: BinaryIO, settings: Settings, rejected: list[Reject]
) -> tuple[Dataset, list[NearDuplicate]]:
    image_of = {film.id: stored for film, stored in images}
    split_of, conflicts = splits.assign(
        [film for film, _ in images], {film_id: stored.source_hash for film_id, stored in image_of.items()}
    )
    rejected += conflicts
    assigned = [film for film, _ in images if film.id in split_of]
    genres = _frequent_genres(assigned, settings.min_examples)
    members: dict[str, list[Film]] = {name: [] for name in manifest.SPLITS}
    # The order of the hashes shuffles: a CSV is often sorted, and a shard must not be all of one kind.
    for film in sorted(assigned, key=lambda film: splits.film_hash(film.id)):
        if set(film.genres) & set(genres):
            members[split_of[film.id]].append(film)
        else:
            detail = f"fewer than {settings.min_examples} films have {'|'.join(film.genres)}"
            rejected.append(Reject(film.row, film.id, Reason.RARE_GENRE_ONLY, detail))
    if not genres:
        raise UserError(_no_film_is_left(rejected))
    duplicates = _near_duplicates(members, image_of, spool)
    dataset = Dataset(epath.Path(output.folder), "", genres, settings.height, settings.width, settings.encoding, {})
    for name, films in members.items():
        examples = [writing.Example(film.id, frozenset(film.genres), image_of[film.id]) for film in films]
        count = _shard_count(name, examples, settings)
        written = writing.write_shards(output, name, examples, dataset, count=count, spool=spool)
        counts = Counter(genre for film in films for genre in film.genres)
        split = Split(len(examples), {genre: counts[genre] for genre in genres}, written)
        dataset = dataclasses.replace(dataset, splits={**dataset.splits, name: split})
    return dataclasses.replace(dataset, fingerprint=manifest.fingerprint(dataset)), duplicates


def _near_duplicates(members: Mapping[str, Sequence[Film]], image_of: Mapping[str, Stored], spool: BinaryIO) -> list[NearDuplicate]:
    def thumbnail_of(film_id: str) -> bytes:
        spool.seek(image_of[film_id].offset + image_of[film_id].size)
        return spool.read(perceptual_hash.THUMBNAIL_BYTES)

    posters = [
        duplicate_search.Poster(film.id, split, image_of[film.id].perceptual_hash)
        for split, films in members.items()
        for film in films
    ]
    return duplicate_search.find(posters, thumbnail_of)


def _shard_count(split: str, examples: Sequence[writing.Example], settings: Settings) -> int:
    if split != "train" or settings.train_shards is None:
        return writing.shard_count(examples, multiple_of=_SHARDS_MULTIPLE[split])
    if settings.train_shards > len(examples):
        raise UserError(f"--shards={settings.train_shards} is more than the {len(examples)} films for training: ask for fewer")
    return settings.train_shards


def _no_film_is_left(rejected: Sequence[Reject]) -> str:
    reason, count = Counter(reject.reason for reject in rejected).most_common(1)[0]
    first = min(reject for reject in rejected if reject.reason == reason)
    return (
        f"no row of the CSV became an example: {count:,} of {len(rejected):,} are rejected as {reason.value} "
        f"(row {first.row}: {first.detail}); check --csv, --images and --min_examples"
    )
