"""Data sets of a few bytes on their way to a bucket in memory, and what is there then."""

import dataclasses
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from tests.support import buckets
from tests.support.buckets import Buckets
from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Shard, Split
from trainer.preparation import publishing
from trainer.storage import files

DATA = "gs://posters/data"
MARK = ".preparing.json"
OTHER_FILES = ("near_duplicates.csv", "preview.html", "rejects.csv")


def bucket_with_notes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Buckets:
    """Returns a bucket with notes beside the data set; temporary folders are in `folder` from now on."""
    (folder / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "scratch"))
    made = buckets.in_memory(monkeypatch, "posters")
    made.put(f"{DATA}/notes.txt", b"mine")
    return made


def published(*, overwrite: bool = False) -> AbstractContextManager[Any]:
    """Begins a run that writes the data set."""
    return publishing.published(epath.Path(DATA), overwrite=overwrite)


def shard(destination: Any, number: int, count: int, mark: str) -> Shard:
    """Writes a shard as `writing` does."""
    file = destination.folder / manifest.shard_name("train", number, count)
    file.write_text(f"{mark} {number}")
    made = Shard(file.name, 1, file.stat().st_size, files.checksum(epath.Path(file)))
    destination.add(made)
    return made


def fill(destination: Any, mark: str, count: int = 3) -> None:
    """Writes a data set as `trainer.prepare` does."""
    shards = tuple(shard(destination, number, count, mark) for number in range(count))
    for name in OTHER_FILES:
        (destination.folder / name).write_text(mark)
    dataset = Dataset(epath.Path("-"), "", ("Drama",), 48, 32, "jpeg", {"train": Split(count, {"Drama": 1}, shards)})
    dataset = dataclasses.replace(dataset, fingerprint=manifest.fingerprint(dataset))
    (destination.folder / "dataset.json").write_text(manifest.to_text(dataset))


def publish(mark: str, count: int = 3, *, overwrite: bool = False) -> None:
    """Writes the data set."""
    with published(overwrite=overwrite) as destination:
        fill(destination, mark, count)


def names(count: int = 3) -> set[str]:
    """Returns the names of the files of a data set with so many shards."""
    return {"dataset.json", *OTHER_FILES, *(manifest.shard_name("train", number, count) for number in range(count))}


def there(bucket: Buckets) -> dict[str, bytes]:
    """Returns what the data set's folder holds, by name; the notes must be unchanged."""
    found = {uri.removeprefix(f"{DATA}/"): content for uri, content in bucket.content.items()}
    assert found.pop("notes.txt") == b"mine"
    return found


def changes(bucket: Buckets) -> list[str]:
    """Returns the names of the objects that were written and removed, in this order, without those of the lock."""
    verbs = {"upload": "+", "write": "+", "remove": "-"}
    return [
        f"{verbs[request.verb]}{request.uri.rpartition('/')[2]}"
        for request in bucket.requests
        if request.verb in verbs and not request.uri.endswith(MARK)
    ]


def on_disk(tmp_path: Path) -> list[str]:
    """Returns the names of the temporary folders that a run left in `tmp_path`/scratch."""
    return [path.name for path in (tmp_path / "scratch").iterdir() if path.suffix != ".lock"]
