"""Which hashes are near each other, without comparing each with each."""

from collections.abc import Iterator

import numpy as np

_BITS = 16  # Of a piece.
_QUERIES = 1 << 10  # At a time.
_CANDIDATES = 1 << 20  # At a time, or as many as share a piece.


def near(hashes: np.ndarray, queries: np.ndarray, *, within: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Finds what is near each of the queries.

    Of two hashes of m pieces that differ in fewer than 2 m bits, some piece differs in one bit at most. So only those are compared
    that a table finds under one of the pieces of the query, or under what differs from it in one bit. Source: M. Norouzi, A.
    Punjani, D. J. Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012.

    Args:
      hashes: uint16 [n, m], m a multiple of 4.
      queries: int64 [q]: which of the hashes to find others for.
      within: the largest distance, in bits; less than 2 m.

    Yields:
      Arrays of the same length: a query, a hash (perhaps the query itself) and their distance, in no order. A pair may come more
      than once.
    """
    words = hashes.view(np.uint64)
    tables = [_table(piece) for piece in hashes.T]
    flips = np.array([0, *(1 << bit for bit in range(_BITS))], np.uint16)
    for start in range(0, len(queries), _QUERIES):
        some = queries[start : start + _QUERIES]
        for piece, (order, first) in enumerate(tables):
            keys = (hashes[some, piece][:, np.newaxis] ^ flips).ravel().astype(np.int64)
            for owners, candidates in _members(np.repeat(some, len(flips)), keys, order, first):
                distances = np.bitwise_count(words[owners] ^ words[candidates]).sum(1, dtype=np.int64)
                is_near = distances <= within
                yield owners[is_near], candidates[is_near], distances[is_near]


def _table(pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashes in the order of a piece, and for each value of the piece, and the end, its first place in that order."""
    order = np.argsort(pieces, kind="stable")
    return order, np.searchsorted(pieces[order], np.arange((1 << _BITS) + 1))


def _members(owners: np.ndarray, keys: np.ndarray, order: np.ndarray, first: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each owner of a key beside each hash with that key, as many at a time as memory is to hold."""
    counts = first[keys + 1] - first[keys]
    some = counts > 0
    owners, begins, counts = owners[some], first[keys[some]], counts[some]
    ends = np.cumsum(counts)
    low = 0
    while low < len(counts):
        done = ends[low] - counts[low]
        high = max(low + 1, int(np.searchsorted(ends, done + _CANDIDATES, side="right")))
        sizes = counts[low:high]
        # 0, 1, 2 … within each key.
        places = np.arange(ends[high - 1] - done) - np.repeat(ends[low:high] - sizes - done, sizes)
        yield np.repeat(owners[low:high], sizes), order[np.repeat(begins[low:high], sizes) + places]
        low = high
