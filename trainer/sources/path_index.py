"""An index of the paths of a folder, by path and by their ends: a million of them in some megabytes."""

import itertools
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from trainer.images import formats


class PathIndex:
    """Finds files by their path, or by the names at its end without regard to case, Unicode form and extension.

    Attributes:
      paths: All paths, relative to the folder and with forward slashes.
      only_top: The one top-level subfolder that all images lie in, or None.
    """

    MANY = 30
    """Of more files that share an end, only so many are looked at: a folder may have a million files named poster.jpg."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = list(paths)
        tops = {top for path, top in map(_with_top, self.paths) if formats.split(path)[1]}
        tops = tops or {top for _, top in map(_with_top, self.paths)}
        self.only_top = tops.pop() if len(tops) == 1 else None
        self._by_path: _Hashes | None = None
        self._images = array("I")
        self._depth = 0
        self._levels: dict[int, _Hashes] = {}

    def __contains__(self, path: str) -> bool:
        """Returns whether there is a file at a path."""
        if self._by_path is None:
            self._by_path = _Hashes(map(hash, self.paths), range(len(self.paths)))
        return any(self.paths[number] == path for number in self._by_path.find(path))

    def has_name(self, stem: str) -> bool:
        """Returns whether a file may have a name.

        Args:
          stem: The name without its extension, as `fold` returns it.
        """
        return any(True for _ in self._level(1).find(stem))

    def longest_tail(self, parents: Sequence[str], stem: str, accept: Callable[[str], bool]) -> tuple[int, list[str]]:
        """Returns the files that share the longest end of a path.

        Args:
          parents: Names of the folders above the file.
          stem: The file's name, without its extension.
          accept: Tells of a file's path whether it counts.

        Returns:
          How many names the path and the files share at their ends, the file's name among them, and the paths of the files, no
          more than `MANY`.
        """
        folded = [*map(fold, parents), fold(stem)]
        numbers = [*itertools.islice(self._level(1).find(folded[-1]), 2)]
        if len(numbers) == 1:  # Most names are a single file's: the indexes of longer ends are not needed.
            path = self.paths[numbers[0]]
            own = _folded_tail(path, len(folded))
            shared = 0
            while shared < min(len(own), len(folded)) and own[-shared - 1] == folded[-shared - 1]:
                shared += 1
            return (shared, [path]) if shared and accept(path) else (0, [])
        for length in range(min(len(folded), self._depth) if numbers else 0, 0, -1):
            if found := self._with_tail(folded[-length:], accept):
                return length, found
        return 0, []

    def repeated_share(self) -> float:
        """Returns the share of the images whose name, without its extension, an earlier image has too."""
        return self._level(1).repeated_share

    def _with_tail(self, tail: Sequence[str], accept: Callable[[str], bool]) -> list[str]:
        numbers = itertools.islice(self._level(len(tail)).find("/".join(tail)), self.MANY)
        return [path for path in map(self.paths.__getitem__, numbers) if accept(path) and _folded_tail(path, len(tail)) == tail]

    def _level(self, length: int) -> "_Hashes":
        """Returns the index of the images by so many names at their ends."""
        if not self._levels:
            self._images = array("I", (number for number, path in enumerate(self.paths) if _may_be_image(path)))
            self._depth = max((self.paths[number].count("/") + 1 for number in self._images), default=0)
        if length not in self._levels:
            deep: Sequence[int] = self._images
            if length > 1:
                deep = [number for number in deep if self.paths[number].count("/") + 1 >= length]
            tails = (hash("/".join(_folded_tail(self.paths[number], length))) for number in deep)
            self._levels[length] = _Hashes(tails, deep)
        return self._levels[length]


class _Hashes:
    """Numbers by the hash of a text: 12 bytes each, where a dictionary takes about 200 with its keys."""

    def __init__(self, hashes: Iterable[int], numbers: Sequence[int]) -> None:
        values = np.fromiter(hashes, np.int64, len(numbers))
        order = np.argsort(values, kind="stable")
        self.repeated_share = float(np.mean(np.diff(values[order]) == 0)) if len(numbers) > 1 else 0.0
        # bisect is faster on an array than numpy's search is for a single value.
        self._values = array("q", values[order].tobytes())
        self._numbers = array("I", np.asarray(numbers, np.uint32)[order].tobytes())

    def find(self, text: str) -> Iterator[int]:
        """Yields the numbers of texts with the same hash, in the order in which they were given."""
        value = hash(text)
        at = bisect_left(self._values, value)
        while at < len(self._values) and self._values[at] == value:
            yield self._numbers[at]
            at += 1


def fold(name: str) -> str:
    """Returns a name in the form that all its spellings in other case or another Unicode form share."""
    if name.isascii():
        return name.strip().lower()
    return unicodedata.normalize("NFC", name.strip().casefold())


def _folded_tail(path: str, length: int) -> list[str]:
    *parents, name = path.rsplit("/", length)[-length:]
    return [*map(fold, parents), fold(formats.split(name)[0])]


def _with_top(path: str) -> tuple[str, str | None]:
    top, slash, _ = path.partition("/")
    return path, top if slash else None


def _may_be_image(path: str) -> bool:
    name = path.rpartition("/")[2]
    return formats.split(name)[1] != "" or formats.has_no_extension(name)
