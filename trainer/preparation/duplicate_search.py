"""Films whose poster also occurs, nearly the same, in another split: what a network has seen of it says nothing of new posters.

Copies of a file share a split (trainer/preparation/splits.py). These are other files: the same poster at another size or quality,
cropped, or with another title.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from trainer.dataset.manifest import SPLITS
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.images import perceptual_hash
from trainer.preparation import hamming

_LOOKS = 1 << 12  # At a time.


@dataclass(frozen=True)
class Poster:
    """A film, its split and `perceptual_hash.compute` of its picture."""

    id: str
    split: str
    hash: bytes


def find(posters: Iterable[Poster], thumbnail_of: Callable[[str], bytes]) -> list[NearDuplicate]:
    """Finds posters that nearly occur in another split. Pictures almost of one colour are never near-duplicates.

    Args:
      posters: in any order.
      thumbnail_of: returns `perceptual_hash.thumbnail` of a film's picture by the film's id; asked for where hashes are near.

    Returns:
      For each film and each other split that its poster occurs in, the nearest one there (of equally near ones that with the first
      id); by the films' ids.
    """
    found = sorted((poster for poster in posters if poster.hash), key=lambda poster: poster.id)
    if not found:
        return []
    hashes = np.frombuffer(b"".join(poster.hash for poster in found), np.uint16).reshape(-1, perceptual_hash.PIECES)
    split_of = np.array([SPLITS.index(poster.split) for poster in found])
    # Of a pair, one film is outside of the largest split.
    queries = np.flatnonzero(split_of != np.bincount(split_of).argmax())
    nearest = _Nearest(split_of)
    for pairs in hamming.near(hashes, queries, within=perceptual_hash.MAX_DISTANCE):
        for start in range(0, len(pairs[0]), _LOOKS):
            ones, others, distances = (of_pair[start : start + _LOOKS] for of_pair in pairs)
            is_better = nearest.is_better(ones, others, distances)
            ones, others, distances = ones[is_better], others[is_better], distances[is_better]
            if len(ones):
                thumbnails = {place: thumbnail_of(found[place].id) for place in {*ones.tolist(), *others.tolist()}}
                alike = perceptual_hash.are_alike([thumbnails[place] for place in ones], [thumbnails[place] for place in others])
                nearest.take(ones[alike], others[alike], distances[alike])
    return [
        NearDuplicate(found[one].id, found[one].split, found[other].id, found[other].split, distance)
        for one, other, distance in nearest.pairs()
    ]


class _Nearest:
    """The nearest poster to each of n in each split.

    Pairs that are no better than what is known need no closer look: so one that comes again costs nothing, nor do thousands of
    films with nearly the same picture, each of which is near to each.
    """

    def __init__(self, split_of: np.ndarray) -> None:
        self._split_of = split_of
        # The distance times n, and the other poster's place: less is nearer, and equally near ones are in their order.
        self._known = np.full((len(split_of), len(SPLITS)), np.iinfo(np.int64).max)

    def is_better(self, ones: np.ndarray, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Tells which of the pairs are in two splits and nearer than what is known of one of both, bool [pairs]."""
        split_of, n = self._split_of, len(self._split_of)
        nearer = distances * n + others < self._known[ones, split_of[others]]
        nearer |= distances * n + ones < self._known[others, split_of[ones]]
        return nearer & (split_of[ones] != split_of[others])

    def take(self, ones: np.ndarray, others: np.ndarray, distances: np.ndarray) -> None:
        """Takes pairs of which each is a near-duplicate."""
        n = len(self._split_of)
        np.minimum.at(self._known, (ones, self._split_of[others]), distances * n + others)
        np.minimum.at(self._known, (others, self._split_of[ones]), distances * n + ones)

    def pairs(self) -> list[tuple[int, int, int]]:
        """Returns place, the other's place and distance."""
        ones, in_split = np.nonzero(self._known < np.iinfo(np.int64).max)
        distances, others = np.divmod(self._known[ones, in_split], len(self._split_of))
        return list(zip(ones.tolist(), others.tolist(), distances.tolist(), strict=True))
