"""Which split a film belongs to."""

import hashlib
from collections.abc import Mapping, Sequence

from trainer.catalog.catalog import Film
from trainer.dataset.rejects import Reason, Reject

# A film's hash modulo ten: 80 % for training, 10 % each for validation and test.
_TENTHS = (*("train",) * 8, "validation", "test")


def film_hash(film_id: str) -> bytes:
    """Returns what a film's split, and its place within the split, depend on: neither other films nor their order."""
    return hashlib.sha256(film_id.encode()).digest()


def assign(films: Sequence[Film], source_hashes: Mapping[str, str]) -> tuple[dict[str, str], list[Reject]]:
    """Assigns each film a split.

    A film goes by the hash of its id, so that no rerun and no larger CSV moves it. Films with the same picture would tell training
    what the test shows: they go with the first of them. Where the CSV assigns the splits they cannot, and those are rejected that
    are in another split than the first.

    Args:
      films: in the order of the CSV.
      picture_hashes: the hash of each film's picture file by the film's id.

    Returns:
      The split by the film's id, and the films that got none.
    """
    splits: dict[str, str] = {}
    rejects = []
    first_with_image: dict[str, Film] = {}
    for film in films:
        first = first_with_image.setdefault(source_hashes[film.id], film)
        if film.split is not None and film.split != splits.get(first.id, film.split):
            detail = f"the same picture as row {first.row}, which is in {splits[first.id]}"
            rejects.append(Reject(film.row, film.id, Reason.SHARED_PICTURE, detail))
        elif film.split is not None:
            splits[film.id] = film.split
        elif first is not film:
            splits[film.id] = splits[first.id]
        else:
            splits[film.id] = _TENTHS[int.from_bytes(film_hash(film.id)) % len(_TENTHS)]
    return splits, rejects
