"""Finds the image file that a CSV names, by id or by path, in any kind of folder."""

import enum
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

from trainer.dataset.rejects import Reason
from trainer.images import decode, formats
from trainer.images.decode import ImageError
from trainer.sources.image_folder import Folder, ImageFile, OutsideFolderError
from trainer.sources.path_index import PathIndex, fold
from trainer.storage import urls

_DRIVE = re.compile(r"[A-Za-z]:(?!\s)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ID = re.compile(r"(?:tt)?([0-9]{1,18})(?:\.0+)?")  # pandas makes floats of a column of ids in which one is missing.
_WORD = re.compile(r"[A-Za-z0-9_-]+")  # Without what makes a name a path, a URL or a file with an extension.
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_MAX_REPEATED_SHARE = 0.1  # If more images have the name of another one, a name alone does not tell a film.
_SHOWN_CHARACTERS = 200
_THREADS = 16


class How(enum.StrEnum):
    """How a name in a CSV led to a file."""

    EXACT = "its name"
    ID = "its id in another form"
    CASE = "its name in another case or Unicode form"
    EXTENSION = "its name with another extension"
    TAIL = "the end of its path"


@dataclass(frozen=True, slots=True)
class Match:
    """An image that was found.

    Attributes:
      path: The file's path relative to the folder, with forward slashes.
      file: The file.
      how: How its name led to it.
    """

    path: str
    file: ImageFile
    how: How


@dataclass(frozen=True, slots=True)
class _Several:
    """Files of which a name may mean any.

    Attributes:
      paths: Two of them.
    """

    paths: tuple[str, str]


_Found = tuple[str, How] | _Several


@dataclass(frozen=True, slots=True)
class _Name:
    """A reading of a name as a path.

    Attributes:
      parts: Its folders and its file name, without `.` and `..`.
      is_clear: Whether it cannot be a date, or a title such as 50/50: it is absolute, a URL, begins with `./` or `../`, or a
        letter is in its last part.
    """

    parts: Sequence[str]
    is_clear: bool


def images_among(paths: Iterable[str], get: Callable[[str], ImageFile | None]) -> list[str]:
    """Returns those of a folder's files that are images, sorted.

    Args:
      paths: Paths of the files, relative to the folder and with forward slashes.
      get: Returns the file at a path, or None if there is none. Files without extension are read, their first bytes alone.
    """
    named, unnamed = [], []
    for path in paths:
        name = path.rpartition("/")[2]
        if formats.is_hidden(path):
            continue
        if formats.split(name)[1]:
            named.append(path)
        elif formats.has_no_extension(name):
            unnamed.append(path)

    def is_image(path: str) -> bool:
        try:
            file = get(path)
            return file is not None and decode.format_of(file.read_start(formats.START_BYTES)) is not None
        except (ImageError, OutsideFolderError):
            return False

    with ThreadPoolExecutor(_THREADS) as pool:
        named += [path for path, found in zip(unnamed, pool.map(is_image, unnamed), strict=True) if found]
    return sorted(named)


class ImageFinder:
    """Finds images in a folder and its subfolders. The folder is listed once.

    No path from a CSV leads out of the folder: not by `..`, not as an absolute path, not through a symbolic link.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._index = PathIndex(path for path in folder.paths() if not formats.is_hidden(path))
        self._images: list[str] | None = None

    @property
    def count(self) -> int:
        """The number of images in the folder."""
        return len(self.image_paths())

    def image_paths(self) -> list[str]:
        """Returns the relative paths of all images, sorted. Reads the first bytes of the files that have no extension."""
        if self._images is None:
            self._images = images_among(self._index.paths, self._folder.get)
        return self._images

    def find(self, name: str) -> Match:
        """Finds an image.

        The first of these that leads to a file counts:
          1. The exact path relative to the folder, with slashes or backslashes, also with the folder's own name in front; or, if
             all images lie in one subfolder, relative to that.
          2. The exact name, with or without extension, in any subfolder. Of several, the one in the higher folder counts, then the
             one with the commoner extension, then the first by path; if the name has its extension, several are an error.
          3. A film's number with and without `tt`, leading zeros and `.0`.
          4. The same as 1 and 2 in another case or Unicode form, or with another extension than the file's if only one file has
             the name.
          5. The longest end of an absolute path, a URL or a path from another root that a file in the folder shares.

        Args:
          name: A cell of a CSV: an id, a file name, a path or a URL.

        Returns:
          The image, which lies inside the folder.

        Raises:
          ImageError: No image matches, several match equally well, or the path leads out of the folder.
        """
        shown = repr(_shown(name))
        found = None if self._is_no_files(name) else self._exact(name) or self._search(name)
        if isinstance(found, _Several):
            first, second = found.paths
            detail = f"{shown} may be {_shown(first)!r} or {_shown(second)!r}: write the path of one of them"
            raise ImageError(Reason.NO_PICTURE, detail)
        try:
            file = self._folder.get(found[0]) if found else None
        except OutsideFolderError:
            raise ImageError(Reason.OUTSIDE_FOLDER, f"{shown} leads out of the image folder") from None
        if found and file:
            return Match(found[0], file, found[1])
        path = _slashed(name)
        if path.startswith("/") or _DRIVE.match(path) or path.lower().startswith("file://"):
            raise ImageError(Reason.OUTSIDE_FOLDER, f"{shown} is an absolute path, and no image in the folder has its name")
        if "/" in path and _leads_out(path):
            raise ImageError(Reason.OUTSIDE_FOLDER, f"{shown} leads out of the image folder")
        raise ImageError(Reason.NO_PICTURE, f"no image {shown} in the folder")

    def _is_no_files(self, name: str) -> bool:
        """Tells at once that an id is no file's name: a CSV may have a million films more than there are images."""
        if not _WORD.fullmatch(name) or self._index.has_name(name.lower()):
            return False
        number = _ID.fullmatch(name)
        return number is None or not any(self._index.has_name(spelling) for spelling in _spellings(int(number[1])))

    def _get(self, path: str) -> bool:
        """Returns whether there is a file that the listing does not have: below a symbolic link to a folder, for example."""
        try:
            return self._folder.get(path) is not None
        except OutsideFolderError:
            return True  # Getting it again raises the error.

    def _exact(self, name: str) -> _Found | None:
        """Returns the file at the relative path that a name is."""
        for path in dict.fromkeys((name, _slashed(name), _slashed(name).strip())):
            if "://" in path:
                continue
            inside = posixpath.normpath(path.lstrip("/"))
            candidates = [inside]
            first, _, rest = inside.partition("/")
            if rest and first == self._folder.name:
                candidates.append(rest)
            if self._index.only_top:
                candidates.append(f"{self._index.only_top}/{inside}")
            for candidate in candidates:
                if candidate in self._index:
                    return candidate, How.EXACT
            if "/" in inside and not path.startswith("/") and not _leads_out(inside) and not formats.is_hidden(inside):
                for candidate in candidates:
                    if self._get(candidate):
                        return candidate, How.EXACT
        return None

    def _search(self, name: str) -> _Found | None:
        """Returns the file that a name leads to when it is not the file's path."""
        worse = None
        for reading in _readings(name):
            for search in (self._by_name, self._by_id, self._by_other_extension) if reading.parts else ():
                found = search(reading)
                if found and not isinstance(found, _Several) and found[1] is not How.TAIL:
                    return found
                worse = worse or found
        return worse

    def _by_name(self, name: _Name) -> _Found | None:
        *_, last = name.parts
        stem, extension = formats.split(last)
        if extension and (found := self._choose(name, stem, lambda path: formats.split(path)[1] == extension, How.CASE)):
            return found
        # The whole name may be a file's name without its extension, or that of a file without extension.
        return self._choose(name, last, lambda _: True, How.CASE)

    def _by_id(self, name: _Name) -> _Found | None:
        if match := _ID.fullmatch(name.parts[-1].strip()):
            for spelling in _spellings(int(match[1])):
                if found := self._choose(_Name((*name.parts[:-1], spelling), name.is_clear), spelling, lambda _: True, How.ID):
                    return found
        return None

    def _by_other_extension(self, name: _Name) -> _Found | None:
        stem, extension = formats.split(name.parts[-1])
        return self._choose(name, stem, lambda _: True, How.EXTENSION) if extension else None

    def _choose(self, name: _Name, stem: str, accept: Callable[[str], bool], how: How) -> _Found | None:
        """Chooses among the files of a name.

        Args:
          name: The name.
          stem: The file's name without extension that is looked for.
          accept: Tells of a file's path whether it may be chosen.
          how: What a match is called that is neither exact nor found by its end alone.
        """
        *parents, last = name.parts
        shared, paths = self._index.longest_tail(parents, stem, accept)
        if not paths:
            return None

        def is_whole(path: str) -> bool:
            return self._is_whole(path, name.parts, shared)

        def is_exact(path: str) -> bool:
            tail = path.split("/")[-shared:]
            is_named = not {last, last.strip()}.isdisjoint((tail[-1], formats.split(tail[-1])[0]))
            return is_named and tail[:-1] == parents[len(parents) - shared + 1 :]

        is_bare = not parents
        for is_better in (is_exact, is_whole) if is_bare else (is_whole, is_exact):
            paths = [path for path in paths if is_better(path)] or paths
        if len(paths) > 1:
            stems = {formats.split(path.rpartition("/")[2])[0] for path in paths}
            if not is_bare or how is How.EXTENSION or formats.split(last)[1] or len(stems) > 1 or len(paths) >= self._index.MANY:
                first, second = sorted(paths)[:2]
                return _Several((first, second))
        path = min(paths, key=_preference)
        if is_bare or is_whole(path):
            return path, how if how is not How.CASE or not is_exact(path) else How.EXACT
        if shared == 1 and not (name.is_clear and self._names_a_film_alone(path, parents[-1])):
            return None
        return path, How.TAIL

    def _names_a_film_alone(self, path: str, parent: str) -> bool:
        """Returns whether a file's name tells its film although the folder above it is called otherwise than in the CSV."""
        above, _, _ = path.rpartition("/")
        if above in ("", self._index.only_top) and not _ID.fullmatch(above):
            return True
        # 14/poster.jpg is another film's than 12/poster.jpg, and Drama/1.jpg than War/1.jpg.
        ids = [_ID.fullmatch(folder) is not None for folder in (above.rpartition("/")[2], parent)]
        return not all(ids) and self._index.repeated_share() < _MAX_REPEATED_SHARE

    def _is_whole(self, path: str, parts: Sequence[str], shared: int) -> bool:
        """Returns whether a name is a file's whole path, also relative to the only subfolder or below the folder's own name."""
        above = path.count("/") + 1 - shared
        if above and not (above == 1 and self._index.only_top):
            return False
        return len(parts) == shared or fold(parts[-shared - 1]) == fold(self._folder.name)


def _spellings(number: int) -> tuple[str, ...]:
    """Returns the ways to write a film's number in an image's name, the likeliest first."""
    return f"tt{number:07d}", f"{number:07d}", f"{number}", f"tt{number}"


def _preference(path: str) -> tuple[int, int, list[str]]:
    """Orders files: the higher folder first, then the commoner extension, then the path: so the listing's order does not matter."""
    return path.count("/"), formats.rank(formats.split(path)[1]), path.split("/")


def _readings(name: str) -> Iterator[_Name]:
    """Yields the ways to read a name as a path, the likeliest first."""
    if scheme := _SCHEME.match(name.strip()):
        whole = name.strip()[scheme.end() :]
        path = re.split(r"[?#]", whole, maxsplit=1)[0]
        # wget keeps the query in a file's name; in the name of an object in a bucket, a question mark is a letter like others.
        texts = [path, unquote(path), whole] if urls.is_web(name.strip()) else [whole, unquote(path)]
        is_rooted = True
    else:
        texts = [name, name.strip()]
        if _PERCENT.search(name):
            texts.append(unquote(name.strip()))
        is_rooted = _slashed(name).startswith(("/", "./", "../")) or _DRIVE.match(name) is not None
    for text in dict.fromkeys(texts):
        normal = posixpath.normpath(_slashed(text))
        parts = [part for part in normal.split("/") if part not in ("", ".", "..")]
        yield _Name(parts, is_rooted or bool(parts and re.search(r"[^\W\d_]", parts[-1])))


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _leads_out(path: str) -> bool:
    inside = posixpath.normpath(path)
    return inside == ".." or inside.startswith("../")


def _shown(name: str) -> str:
    """Returns a name as an error message quotes it: not too long, and a URL without its secrets."""
    name = urls.shown(name)
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[: _SHOWN_CHARACTERS - 1]}…"
