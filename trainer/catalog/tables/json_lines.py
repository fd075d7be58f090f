"""Reads JSON Lines (https://jsonlines.org): an object a line, whose keys are the columns.

The import files of Vertex AI for image classification are of this form
(https://cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data#json-lines).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

ML_USE = "ml_use"
"""The column of the split in an import file of Vertex AI."""

_VERTEX_LABELS = "dataItemResourceLabels"
_VERTEX_ML_USE = "aiplatform.googleapis.com/ml_use"


def are_json(lines: Sequence[str]) -> bool:
    """Returns whether the first line of a file that is not blank is a JSON object."""
    first = next((line for line in lines if line.strip()), "")
    return first.lstrip().startswith("{") and _object(first) is not None


def records(lines: Iterable[str]) -> Iterator[dict[str, str] | None]:
    """Yields the cells of each line that is not blank, by column; None for a line that is not a JSON object."""
    for line in lines:
        if not line.strip():
            continue
        found = _object(line)
        if found is None:
            yield None
            continue
        vertex_labels = found.pop(_VERTEX_LABELS, None)
        if isinstance(vertex_labels, dict) and _VERTEX_ML_USE in vertex_labels:
            found[ML_USE] = vertex_labels[_VERTEX_ML_USE]
        yield {key: _cell(value) for key, value in found.items()}


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
