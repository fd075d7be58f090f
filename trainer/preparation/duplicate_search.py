"""Finds films whose poster also occurs, nearly the same, in another split; metrics on such films are too good.

Copies of a file share a split (trainer/preparation/splits.py). This module finds different files that show the same poster: at
another size or quality, cropped, or with another title.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from trainer.dataset.manifest import SPLITS
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.images import perceptual_hash
from trainer.preparation import hamming

_PAIRS_AT_A_TIME = 1 << 12  # This limits the thumbnails in memory.


@dataclass(frozen=True)
class Poster:
    """A film's id, its split, and the perceptual hash of its image (`perceptual_hash.compute`)."""

    id: str
    split: str
    hash: bytes


def find(posters: Iterable[Poster], thumbnail_of: Callable[[str], bytes]) -> list[NearDuplicate]:
    """Finds the posters that also occur, nearly the same, in another split.

    An image of almost one colour is never a near-duplicate.

    Args:
      posters: the posters, in any order.
      thumbnail_of: returns the thumbnail (`perceptual_hash.thumbnail`) of a film's image, given the film's id; called only for
        films whose hashes are near each other.

    Returns:
      For each film and each other split in which its poster occurs, the nearest poster there; of equally near ones, the one with
      the first id. The list is sorted by the films' ids.
    """
    found = sorted((poster for poster in posters if poster.hash), key=lambda poster: poster.id)
    if not found:
        return []
    hashes = np.frombuffer(b"".join(poster.hash for poster in found), np.uint16).reshape(-1, perceptual_hash.PIECES)
    split_of = np.array([SPLITS.index(poster.split) for poster in found])
    # At least one film of a pair is outside the largest split.
    queries = np.flatnonzero(split_of != np.bincount(split_of).argmax())
    nearest = _Nearest(split_of)
    for pairs in hamming.near(hashes, queries, within=perceptual_hash.MAX_DISTANCE):
        for start in range(0, len(pairs[0]), _PAIRS_AT_A_TIME):
            ones, others, distances = (of_pair[start : start + _PAIRS_AT_A_TIME] for of_pair in pairs)
            is_better = nearest.is_better(ones, others, distances)
            ones, others, distances = ones[is_better], others[is_better], distances[is_better]
            if len(ones):
                thumbnails = {index: thumbnail_of(found[index].id) for index in {*ones.tolist(), *others.tolist()}}
                alike = perceptual_hash.are_alike([thumbnails[index] for index in ones], [thumbnails[index] for index in others])
                nearest.take(ones[alike], others[alike], distances[alike])
    return [
        NearDuplicate(found[one].id, found[one].split, found[other].id, found[other].split, distance)
        for one, other, distance in nearest.pairs()
    ]


class _Nearest:
    """For each of n posters, the nearest poster known so far in each split.

    A pair that is not nearer than the known ones is skipped before its thumbnails are compared. So repeated pairs cost nothing,
    and neither do thousands of films with nearly the same image, where every pair is near.
    """

    def __init__(self, split_of: np.ndarray) -> None:
        """Starts with no pairs; `split_of` is the split of each poster as its index in `SPLITS`, int64 [n]."""
        self._split_of = split_of
        # distance × n + index of the other poster: a lower value is nearer, and ties go to the lower index.
        self._known = np.full((len(split_of), len(SPLITS)), np.iinfo(np.int64).max)

    def is_better(self, ones: np.ndarray, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Returns which pairs span two splits and are nearer than the known pair of one of the two posters, bool [pairs]."""
        split_of, n = self._split_of, len(self._split_of)
        nearer = distances * n + others < self._known[ones, split_of[others]]
        nearer |= distances * n + ones < self._known[others, split_of[ones]]
        return nearer & (split_of[ones] != split_of[others])

    def take(self, ones: np.ndarray, others: np.ndarray, distances: np.ndarray) -> None:
        """Records pairs of near-duplicates."""
        n = len(self._split_of)
        np.minimum.at(self._known, (ones, self._split_of[others]), distances * n + others)
        np.minimum.at(self._known, (others, self._split_of[ones]), distances * n + ones)

    def pairs(self) -> list[tuple[int, int, int]]:
        """Returns the recorded pairs: index of a poster, index of the nearest poster in another split, distance in bits."""
        ones, in_split = np.nonzero(self._known < np.iinfo(np.int64).max)
        distances, others = np.divmod(self._known[ones, in_split], len(self._split_of))
        return list(zip(ones.tolist(), others.tolist(), distances.tolist(), strict=True))
