"""Recognises CSV files that import images into Vertex AI or AutoML Vision: no header, and a field for each label.

    [SET,]gs://bucket/image.jpg[,LABEL…]

https://cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data#csv
"""

import json
from collections import Counter
from collections.abc import Sequence

from trainer.catalog import cells
from trainer.catalog.genres import known

COLUMNS = ("set", "image", "labels")
"""The columns of such a file."""

_NO_SET = frozenset({"unassigned"})  # Vertex AI assigns the split.


def is_import_file(records: Sequence[Sequence[str]]) -> bool:
    """Returns whether the first records of a file are those of an import file.

    Each record names an image, behind a set or not. That the other fields are labels is certain where there are sets or `gs://`
    URIs. Otherwise the records have to differ in their number of fields, and the labels have to repeat.
    """
    split = [_split(record) for record in records]
    if not split or not all(is_image(image) for _, image, _ in split):
        return False
    if all(cells.is_cloud_uri(image) for _, image, _ in split) or all(name for name, _, _ in split):
        return True
    labels = Counter(label for _, _, labels in split for label in labels)
    repeated = sum(count for label, count in labels.items() if count > 1 or known.is_known(label))
    return len(set(map(len, records))) > 1 and repeated >= 0.8 * sum(labels.values()) > 0


def columns(record: Sequence[str]) -> list[str]:
    """Returns the cells of a record in the columns `COLUMNS`: set, image, and the labels as a JSON array."""
    name, image, labels = _split(record)
    return ["" if name.strip().casefold() in _NO_SET else name, image, json.dumps(labels, ensure_ascii=False)]


def is_image(cell: str) -> bool:
    return cells.is_image_path(cell) or cells.is_cloud_uri(cell)


def _split(record: Sequence[str]) -> tuple[str, str, list[str]]:
    """Returns the set, which may be empty, the image and the labels of a record."""
    has_set = cells.parse_split(record[0]) is not None or record[0].strip().casefold() in _NO_SET
    name, rest = (record[0], record[1:]) if has_set else ("", record)
    labels = [label.strip() for label in rest[1:] if label.strip()]
    return name, rest[0] if rest else "", labels
