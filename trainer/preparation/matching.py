"""Finds the image of each film: in the folder of images, or else at its URL."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.catalog import cells
from trainer.catalog.catalog import Film
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError, brief
from trainer.images.decode import ImageError
from trainer.sources.lookup import How, ImageFinder, Match


@dataclass(frozen=True)
class Matched:
    """Where the films' images are.

    Attributes:
      films: The films that have an image in the folder or at a URL, in the order of the CSV.
      files: For each of them the file in the folder, None if its image is at `Film.url`.
      rejects: The other films.
      found_by: Number of files by the way that led to them.
    """

    films: list[Film]
    files: list[Match | None]
    rejects: list[Reject]
    found_by: Counter[How] = field(default_factory=Counter)


def match(films: Sequence[Film], finder: ImageFinder | None) -> Matched:
    """Finds the image of each film in a folder.

    A file of the folder comes before a URL. A film without a name of an image has the file that its id names, if that is no other
    film's. If only the end of a path leads to a file, and other paths in the CSV have the same end, it is nobody's.

    Args:
      films: The films of the CSV.
      finder: The images of --images; None if there is no folder.

    Returns:
      The films with their files, and the others as rejects.

    Raises:
      UserError: There is no folder, and a film has no URL.
    """
    if finder is None:
        without = next((film for film in films if film.url is None), None)
        if without is not None:
            image = brief(without.image or without.id)
            raise UserError(
                f"--images is missing, but row {without.row} names the image {image!r}: name the folder or archive that holds it"
            )
        return Matched(list(films), [None] * len(films), [])
    found = [_find(finder, film.image) if film.image else None for film in films]
    _drop_ambiguous(films, found)
    taken = {match.path for match in found if isinstance(match, Match)}
    matched = Matched([], [], [])
    for film, result in zip(films, found, strict=True):
        if result is None:
            result = _find(finder, film.id)
            if isinstance(result, Match) and result.path in taken:
                result = Reason.NO_PICTURE, "the CSV names no image, and the one with the film's id is another film's"
        if isinstance(result, Match):
            matched.found_by[result.how] += 1
        elif film.url is None or cells.is_cloud_uri(film.url):
            # An import file may name somebody else's bucket, and --images is a copy of it.
            matched.rejects.append(Reject(film.row, film.id, *result))
            continue
        matched.films.append(film)
        matched.files.append(result if isinstance(result, Match) else None)
    return matched


def _find(finder: ImageFinder, name: str) -> Match | tuple[Reason, str]:
    try:
        return finder.find(name)
    except ImageError as error:
        return error.reason, error.detail


def _drop_ambiguous(films: Sequence[Film], found: list[Match | tuple[Reason, str] | None]) -> None:
    """Takes away the files that several different paths lead to, each by its end alone: at most one of them can be right."""
    names: dict[str, set[str]] = {}
    for film, result in zip(films, found, strict=True):
        if isinstance(result, Match) and result.how is How.TAIL:
            names.setdefault(result.path, set()).add(film.image)
    for index, result in enumerate(found):
        if isinstance(result, Match) and result.how is How.TAIL and len(names[result.path]) > 1:
            detail = f"{len(names[result.path]):,} different paths in the CSV end in {brief(result.path)!r}"
            found[index] = Reason.NO_PICTURE, detail
