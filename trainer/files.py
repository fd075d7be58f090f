"""Small files that appear whole or not at all."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath


def write(path: epath.Path, content: bytes) -> None:
    """Replaces a file at once: a reader, or a rerun after a kill, finds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes indented JSON with one ending newline.

    Raises:
      ValueError: there is a NaN or an infinity in `value`, which JSON does not have.
    """
    write(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not JSON.
    """
    return json.loads(path.read_text())


def csv_bytes(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV in UTF-8, as RFC 4180 has it but with bare newlines; a field that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
