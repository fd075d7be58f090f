"""The films of a folder of images without a CSV: the name of the folder that an image is in is its genre."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.catalog import cells
from trainer.catalog.catalog import Catalog, Film
from trainer.catalog.columns import Layout
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError
from trainer.images.decode import ImageError
from trainer.sources.lookup import ImageFinder

_LAYOUT = Layout(id="path", genres=("folder",), separator=None, labels={}, image="path")


def read(finder: ImageFinder) -> Catalog:
    """Reads a tree such as Drama/1.jpg, War/2.jpg, which torchvision's ImageFolder and Keras read too.

    If the folders at the top are called train, validation (or val) and test, they assign the splits: train/Drama/1.jpg. Images in
    several folders that have the same name and the same bytes are one film with several genres.

    Args:
      finder: The images of --images.

    Returns:
      The films; the path of an image is its id, and the images sorted by path are the rows.

    Raises:
      UserError: No image is in a folder below --images.
      LostService: The storage of the images does not answer.
    """
    paths = [PurePosixPath(path) for path in finder.image_paths()]
    rejects = [
        Reject(row, str(path), Reason.NO_GENRE, "the image is in no folder below --images")
        for row, path in enumerate(paths, start=1)
        if len(path.parts) == 1
    ]
    if len(rejects) == len(paths):
        raise UserError(
            "--csv is missing, and no image is in a folder below --images, whose name would be its genre: name the CSV with --csv"
        )
    has_splits = all(len(path.parts) == 1 or (len(path.parts) > 2 and cells.parse_split(path.parts[0])) for path in paths)
    rows_of: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for row, path in enumerate(paths, start=1):
        if len(path.parts) > 1:
            rows_of[cells.parse_split(path.parts[0]) if has_splits else None, path.name].append(row)
    films = []
    for (split, _), rows in rows_of.items():
        for same in _same_images(finder, paths, rows):
            genres = tuple(dict.fromkeys(paths[row - 1].parent.name for row in same))
            name = str(paths[same[0] - 1])
            films.append(Film(same[0], name, genres, name, split=split))
    return Catalog(
        rows=len(paths),
        films=sorted(films, key=lambda film: film.row),
        rejects=rejects,
        layout=Layout(**{**vars(_LAYOUT), "split": "the folders at the top"}) if has_splits else _LAYOUT,
        distinct_ids=len(films),
        read_as="no CSV: the name of the folder that an image is in is its genre",
    )


def _same_images(finder: ImageFinder, paths: Sequence[PurePosixPath], rows: Sequence[int]) -> list[list[int]]:
    """Returns the rows of images of one name, those with the same bytes together."""
    if len(rows) == 1:
        return [list(rows)]
    by_content: dict[object, list[int]] = defaultdict(list)
    for row in rows:
        try:
            content: object = hashlib.sha256(finder.find(str(paths[row - 1])).file.read()).digest()
        except ImageError:
            content = row  # Decoding says later what is wrong with it.
        by_content[content].append(row)
    return list(by_content.values())
