"""Finds hashes within a Hamming distance of each other without comparing all pairs."""

from collections.abc import Iterator

import numpy as np

_PIECE_BITS = 16
_QUERIES_AT_A_TIME = 1 << 10
_CANDIDATES_AT_A_TIME = 1 << 20  # More only where a single key has more hashes. This limits the memory.


def near(hashes: np.ndarray, queries: np.ndarray, *, within: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Finds the hashes near each query.

    If two hashes of m pieces differ in fewer than 2 m bits, at least one piece differs in one bit at most. So a query is compared
    only with hashes that share a piece with it, or that have a piece one bit away; a table for each piece finds them. Source:
    M. Norouzi, A. Punjani, D. J. Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012.

    Args:
      hashes: the hashes, uint16 [n, m]; m is the number of pieces, a multiple of 4.
      queries: the indices of the hashes to find others for, int64 [q].
      within: the largest distance in bits, less than 2 m.

    Yields:
      Three int64 arrays of the same length: the index of a query, the index of a hash near it (possibly the query itself), and
      their distance in bits. The order is not defined, and a pair may occur more than once.
    """
    words = hashes.view(np.uint64)
    tables = [_table(piece) for piece in hashes.T]
    flips = np.array([0, *(1 << bit for bit in range(_PIECE_BITS))], np.uint16)
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        some = queries[start : start + _QUERIES_AT_A_TIME]
        for piece, (order, first) in enumerate(tables):
            keys = (hashes[some, piece][:, np.newaxis] ^ flips).ravel().astype(np.int64)
            for owners, candidates in _members(np.repeat(some, len(flips)), keys, order, first):
                distances = np.bitwise_count(words[owners] ^ words[candidates]).sum(1, dtype=np.int64)
                is_near = distances <= within
                yield owners[is_near], candidates[is_near], distances[is_near]


def _table(pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indexes the hashes by the values of one piece.

    Args:
      pieces: the piece of every hash, uint16 [n].

    Returns:
      The indices of the hashes, sorted by the piece, int64 [n]; and the position in them at which each value of the piece begins,
      int64 [65537], with the end as the last element.
    """
    order = np.argsort(pieces, kind="stable")
    return order, np.searchsorted(pieces[order], np.arange((1 << _PIECE_BITS) + 1))


def _members(owners: np.ndarray, keys: np.ndarray, order: np.ndarray, first: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs each key's owner with each hash that has the key; yields at most `_CANDIDATES_AT_A_TIME` pairs at once.

    Args:
      owners: the index of the query that each key comes from, int64 [k].
      keys: the values of the piece to look up, int64 [k].
      order: the first array that `_table` returns.
      first: the second array that `_table` returns.

    Yields:
      The owners and the indices of the hashes found, two int64 arrays of the same length.
    """
    counts = first[keys + 1] - first[keys]
    some = counts > 0
    owners, begins, counts = owners[some], first[keys[some]], counts[some]
    ends = np.cumsum(counts)
    low = 0
    while low < len(counts):
        done = ends[low] - counts[low]
        high = max(low + 1, int(np.searchsorted(ends, done + _CANDIDATES_AT_A_TIME, side="right")))
        sizes = counts[low:high]
        # 0, 1, 2 … within each key.
        offsets = np.arange(ends[high - 1] - done) - np.repeat(ends[low:high] - sizes - done, sizes)
        yield np.repeat(owners[low:high], sizes), order[np.repeat(begins[low:high], sizes) + offsets]
        low = high
