"""Assigns each film to the training, validation or test split."""

import hashlib
from collections.abc import Mapping, Sequence

from trainer.catalog.catalog import Film
from trainer.dataset.rejects import Reason, Reject

# A film's hash modulo ten: 80 % for training, 10 % each for validation and test.
_TENTHS = (*("train",) * 8, "validation", "test")


def film_hash(film_id: str) -> bytes:
    """Returns the hash that alone decides a film's split and its position there, whatever other films the CSV has."""
    return hashlib.sha256(film_id.encode()).digest()


def assign(films: Sequence[Film], source_hashes: Mapping[str, str]) -> tuple[dict[str, str], list[Reject]]:
    """Assigns each film a split.

    The hash of a film's id decides, so that no rerun and no larger CSV moves a film. Films that share an image file all go into
    the split of the first of them; otherwise the test split would contain images seen in training. Where the CSV assigns the
    splits, a film that shares its image with an earlier film of another split is rejected.

    Args:
      films: the films in the order of the CSV.
      source_hashes: for each film's id, the hash of its image file.

    Returns:
      The split for each film's id, and the rejected films.
    """
    splits: dict[str, str] = {}
    rejects = []
    first_with_image: dict[str, Film] = {}
    for film in films:
        first = first_with_image.setdefault(source_hashes[film.id], film)
        if film.split is not None and film.split != splits.get(first.id, film.split):
            detail = f"the same image as row {first.row}, which is in {splits[first.id]}"
            rejects.append(Reject(film.row, film.id, Reason.SHARED_PICTURE, detail))
        elif film.split is not None:
            splits[film.id] = film.split
        elif first is not film:
            splits[film.id] = splits[first.id]
        else:
            splits[film.id] = _TENTHS[int.from_bytes(film_hash(film.id)) % len(_TENTHS)]
    return splits, rejects
