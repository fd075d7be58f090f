"""Builds a data set from films and their images: decodes the images, assigns the splits, writes shards and preview.html."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from etils import epath

from trainer.catalog.catalog import Film
from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Split
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError, brief
from trainer.images import perceptual_hash
from trainer.images.decode import ImageError
from trainer.preparation import decoding, duplicate_search, preview, splits, writing
from trainer.preparation.decoding import Stored
from trainer.preparation.matching import Matched
from trainer.preparation.output import Output
from trainer.sources import folders, web
from trainer.sources.image_folder import ImageFile
from trainer.storage import urls

_T = TypeVar("_T")

# The trainer opens 16 training shards at a time; validation and test have a few parallel readers.
_SHARDS_MULTIPLE = {"train": 16, "validation": 4, "test": 4}


@dataclass(frozen=True)
class Settings:
    """The settings of a data set.

    Attributes:
      height: the height of the stored images in pixels.
      width: the width of the stored images in pixels.
      encoding: one of `manifest.ENCODINGS`.
      min_examples: the least number of films, over all splits, with which a genre is kept; at least 1.
      train_shards: the number of training shards; None for a multiple of 16 with at most 100 MB per shard.
    """

    height: int
    width: int
    encoding: str
    min_examples: int
    train_shards: int | None


def build(
    matched: Matched, rejects: Iterable[Reject], output: Output, settings: Settings, *, cache_dir: Path
) -> tuple[Dataset, list[Reject], list[NearDuplicate]]:
    """Decodes and resizes the films' images, and writes the shards and preview.html.

    The encoded images first go to a spool file in the output's folder, because a film's shard is known only when all images are
    decoded. So, while it works, the folder needs additional space of the size of the data set.

    Args:
      matched: the films and where their images are.
      rejects: the rows that were rejected before.
      output: the destination of the shards and of preview.html; its folder is empty.
      settings: the settings of the data set.
      cache_dir: the folder that keeps images from the web.

    Returns:
      The content of dataset.json, every rejected row, and the examples whose poster also occurs in another split.

    Raises:
      UserError: no film is left, there are fewer training films than `settings.train_shards`, or the storage of an image refuses
        access.
      LostService: the storage of the images or of the data set does not answer.
    """
    rejected = [*rejects, *matched.rejects]
    found = _good(matched.films, _files(matched, cache_dir), rejected)
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


def _files(matched: Matched, cache_dir: Path) -> list[ImageFile | ImageError]:
    """Returns each film's image file, fetched if it is on the web, or the error that says why it has none."""
    remote = [film.url for film, match in zip(matched.films, matched.files, strict=True) if match is None and film.url]
    fetched = web.download(list(filter(urls.is_web, remote)), cache_dir=cache_dir)
    files: list[ImageFile | ImageError] = []
    for film, match in zip(matched.films, matched.files, strict=True):
        if match is not None:
            files.append(match.file)
        elif film.url in fetched:
            file = fetched[film.url]
            files.append(file if isinstance(file, ImageError) else folders.LocalFile(file))
        else:
            files.append(folders.CloudImage(str(film.url)))
    return files


def _good(films: Iterable[Film], results: Iterable[_T | ImageError], rejected: list[Reject]) -> list[tuple[Film, _T]]:
    """Returns the films that have a result, with it, and adds the other films to `rejected`."""
    good = []
    for film, result in zip(films, results, strict=True):
        if isinstance(result, ImageError):
            rejected.append(Reject(film.row, film.id, result.reason, result.detail))
        else:
            good.append((film, result))
    return good


def _frequent_genres(films: Iterable[Film], min_examples: int) -> tuple[str, ...]:
    """Returns the genres that enough films have, sorted by code points (the same order as by their bytes in UTF-8)."""
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
    # Sorting by hash shuffles the films: a CSV is often sorted, and each shard should be a mixture.
    for film in sorted(assigned, key=lambda film: splits.film_hash(film.id)):
        if set(film.genres) & set(genres):
            members[split_of[film.id]].append(film)
        else:
            detail = f"fewer than {settings.min_examples} films have {'|'.join(film.genres)}"
            rejected.append(Reject(film.row, film.id, Reason.RARE_GENRE_ONLY, detail))
    if not genres:
        raise UserError(_no_example_left(rejected))
    duplicates = _near_duplicates(members, image_of, spool)
    dataset = Dataset(epath.Path(output.folder), "", genres, settings.height, settings.width, settings.encoding, {})
    for name, films in members.items():
        examples = [writing.Example(film.id, frozenset(film.genres), image_of[film.id]) for film in films]
        count = _shard_count(name, examples, settings)
        written = writing.write_shards(output, name, examples, dataset, count=count, spool=spool)
        counts = Counter(genre for film in films for genre in film.genres)
        split = Split(len(examples), {genre: counts[genre] for genre in genres}, written)
        dataset = dataclasses.replace(dataset, splits={**dataset.splits, name: split})

    def read_image(film: Film) -> bytes:
        spool.seek(image_of[film.id].offset)
        return spool.read(image_of[film.id].size)

    preview.write(output.folder / preview.FILE, dataset, members, read_image)
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
        raise UserError(f"--shards must be at most {len(examples)}, the number of training films, got {settings.train_shards}")
    return settings.train_shards


def _no_example_left(rejected: Sequence[Reject]) -> str:
    reason, count = Counter(reject.reason for reject in rejected).most_common(1)[0]
    first = min(reject for reject in rejected if reject.reason == reason)
    return (
        f"no row of the CSV became an example ({count:,} of {len(rejected):,} were rejected as {reason.value}, "
        f"for example row {first.row}: {brief(first.detail)}): check --csv, --images and --min_examples"
    )
