"""How many shards a split gets, and what is in them."""

import errno
import io
import struct
from pathlib import Path

import pytest
from etils import epath

from trainer.dataset import tfrecord
from trainer.dataset.manifest import Dataset, Shard
from trainer.preparation import writing
from trainer.preparation.decoding import Stored
from trainer.preparation.writing import Example
from trainer.storage import files

GENRES = ("Action", "Drama", "War")


def examples(count, size=10):
    return [
        Example(f"tt{n}", frozenset({"Drama"} if n % 2 else {"War", "Action"}), Stored("", b"", n * 2 * size, size))
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "size", "multiple_of", "shards"),
    [
        (0, 10, 16, 0),
        (3, 10, 16, 3),
        (4, 10, 16, 4),
        (15, 10, 16, 4),
        (16, 10, 16, 16),
        (17, 10, 16, 16),
        (4, 10, 4, 4),
        # 100 MB in a shard, and not a byte more.
        (1600, 1_000_000, 16, 16),
        (1601, 1_000_000, 16, 32),
        (3201, 1_000_000, 16, 48),
        # Never more shards than films.
        (20, 1_000_000_000, 16, 20),
    ],
)
def test_a_shard_has_at_most_100_megabytes_and_their_number_is_a_multiple(count, size, multiple_of, shards):
    assert writing.shard_count(examples(count, size), multiple_of=multiple_of) == shards


class Output:
    verb = "writing"

    def __init__(self, folder):
        self.folder, self.added = folder, []

    def add(self, shard):
        assert (self.folder / shard.name).stat().st_size == shard.bytes, "a shard is complete when it is handed over"
        self.added.append(shard)


@pytest.fixture
def dataset():
    return Dataset(epath.Path("-"), "", GENRES, 48, 32, "raw", {})


def records(path: Path) -> list[bytes]:
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[12 + length + 4 :]
    return found


def test_example_i_goes_to_shard_i_modulo_their_number(tmp_path, dataset, capsys):
    spool = io.BytesIO(b"".join(f"image {n:04d}thumbnail ".encode() for n in range(7)))
    output = Output(tmp_path)
    shards = writing.write_shards(output, "test", examples(7), dataset, count=3, spool=spool)
    assert [(shard.name, shard.examples) for shard in shards] == [
        ("test-00000-of-00003.tfrecord", 3),
        ("test-00001-of-00003.tfrecord", 2),
        ("test-00002-of-00003.tfrecord", 2),
    ]
    assert output.added == list(shards)
    for number, shard in enumerate(shards):
        path = tmp_path / shard.name
        assert shard == Shard(path.name, shard.examples, path.stat().st_size, files.checksum(epath.Path(path)))
        assert records(path) == [
            tfrecord.serialize(
                {
                    "image/encoded": [f"image {n:04d}".encode()],
                    "image/format": [b"raw"],
                    "image/height": [48],
                    "image/width": [32],
                    "image/id": [f"tt{n}".encode()],
                    "image/label": [0, 1, 0] if n % 2 else [1, 0, 1],
                    "image/label_text": [b"Drama"] if n % 2 else [b"Action", b"War"],
                }
            )
            for n in range(number, 7, 3)
        ]
    assert "writing shards of test: 3 of 3" in capsys.readouterr().err


@pytest.mark.parametrize("known", [None, "/dev/full"])
def test_a_write_that_fails_names_its_file(tmp_path, dataset, monkeypatch, known):
    def fail(writer, record):
        raise OSError(errno.ENOSPC, "No space left on device", known)

    monkeypatch.setattr(tfrecord.Writer, "write", fail)
    with pytest.raises(OSError, match="No space left") as failed:
        writing.write_shards(Output(tmp_path), "test", examples(1), dataset, count=1, spool=io.BytesIO(bytes(100)))
    assert failed.value.filename == (known or str(tmp_path / "test-00000-of-00001.tfrecord"))
