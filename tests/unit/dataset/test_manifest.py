"""dataset.json, and what is refused."""

import base64
import dataclasses
import json
import os
from pathlib import Path

import pytest
from etils import epath

from trainer.dataset import manifest
from trainer.dataset.manifest import Dataset, Shard, Split
from trainer.errors import UserError
from trainer.storage import files


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A data set on disk whose shards hold no records: nothing here reads them."""
    path = epath.Path(tmp_path / "films")
    path.mkdir()
    splits = {}
    for name, count in (("train", 2), ("validation", 1), ("test", 0)):
        written = []
        for number in range(count):
            file = path / manifest.shard_name(name, number, count)
            file.write_bytes(f"{name} {number}".encode() * 1000)
            written.append(Shard(file.name, 3, file.stat().length, files.checksum(file)))
        splits[name] = Split(3 * count, {"Drama": count, "Élan": 0}, tuple(written))
    empty = Dataset(path, "", ("Drama", "Élan"), 48, 32, "jpeg", splits)
    filled = dataclasses.replace(empty, fingerprint=manifest.fingerprint(empty))
    (path / "dataset.json").write_text(manifest.to_text(filled))
    return filled


def edit(dataset: Dataset, change) -> None:
    content = json.loads((dataset.path / "dataset.json").read_text())
    change(content)
    (dataset.path / "dataset.json").write_text(json.dumps(content))


def test_a_written_data_set_can_be_loaded(dataset: Dataset):
    assert manifest.load(dataset.path) == dataset
    assert dataset.shard_paths("train") == [
        f"{dataset.path}/train-00000-of-00002.tfrecord",
        f"{dataset.path}/train-00001-of-00002.tfrecord",
    ]


def test_the_file_has_the_keys_that_other_programs_read(dataset: Dataset):
    content = json.loads((dataset.path / "dataset.json").read_text())
    assert list(content) == ["version", "fingerprint", "genres", "image", "splits"]
    assert content["image"] == {"height": 48, "width": 32, "encoding": "jpeg"}
    assert list(content["splits"]) == ["train", "validation", "test"]
    assert list(content["splits"]["train"]) == ["examples", "genre_counts", "shards"]
    assert list(content["splits"]["train"]["shards"][0]) == ["name", "examples", "bytes", "crc32c"]


def test_the_checksum_has_the_form_of_cloud_storage(tmp_path: Path):
    # RFC 3720, B.4: the CRC32C of 32 bytes of zeros is 8a9136aa.
    (tmp_path / "zeros").write_bytes(bytes(32))
    assert base64.b64decode(files.checksum(epath.Path(tmp_path / "zeros"))).hex() == "8a9136aa"


def test_the_fingerprint_depends_on_the_content_and_not_on_the_path(dataset: Dataset):
    moved = dataclasses.replace(dataset, path=epath.Path("elsewhere"))
    taller = dataclasses.replace(dataset, height=49)
    assert manifest.fingerprint(moved) == dataset.fingerprint
    assert manifest.fingerprint(taller) != dataset.fingerprint


def test_a_split_that_is_empty_or_absent_is_explained(dataset: Dataset):
    with pytest.raises(
        UserError, match=r"films has no examples in the split 'test': choose one of train, validation, or prepare more films"
    ):
        dataset.split("test")
    with pytest.raises(UserError, match=r"films has no split 'dev': choose one of train, validation, or prepare more films"):
        dataset.shard_paths("dev")


def test_a_folder_without_dataset_json_is_not_a_data_set(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"is not a data set, it has no dataset\.json.*trainer\.prepare"):
            manifest.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("version"), "is damaged"),
        (lambda content: content.update(version=2), "has version 2"),
        (lambda content: content.pop("genres"), "is damaged.*genres"),
        (lambda content: content["image"].update(height="tall"), "is damaged.*tall"),
        (lambda content: content["image"].update(encoding="gif"), "is damaged.*gif"),
        (lambda content: content["splits"].update(dev={}), "is damaged.*dev"),
        (lambda content: content["splits"].update(train=[]), "is damaged"),
        (lambda content: content.update(genres=[]), "is damaged.*no genres"),
        (lambda content: content.update(genres=["Drama", "Drama"]), "is damaged.*a genre twice"),
        (lambda content: content["splits"]["test"]["genre_counts"].pop("Drama"), "is damaged.*genre_counts has other genres"),
        (lambda content: content["splits"]["test"]["genre_counts"].update(War=0), "is damaged.*genre_counts has other genres"),
        (lambda content: content["splits"]["test"].update(genre_counts=["Drama", "Élan"]), "is damaged"),
        (lambda content: content["splits"]["train"].update(examples=7), "is damaged.*not the sum over its shards"),
        (lambda content: content["splits"]["train"]["shards"][0].update(examples=4), "is damaged.*not the sum over its shards"),
        (lambda content: content["splits"]["train"]["genre_counts"].update(Drama=1), "is damaged.*the fingerprint"),
        (lambda content: content["splits"]["train"]["shards"][0].update(crc32c="AAAAAA=="), "is damaged.*the fingerprint"),
        (lambda content: content["genres"].reverse(), "is damaged.*the fingerprint"),
        (lambda content: content.update(fingerprint=""), "is damaged.*the fingerprint"),
        (lambda content: content["splits"]["train"]["shards"][0].update(name="../../etc/passwd"), "is damaged.*passwd"),
        (lambda content: content["splits"]["train"]["shards"][0].update(name=None), "is damaged"),
    ],
)
def test_a_damaged_dataset_json_is_explained(dataset: Dataset, change, message: str):
    edit(dataset, change)
    with pytest.raises(UserError, match=message):
        manifest.load(dataset.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe\xfd"])
def test_invalid_json_is_explained(dataset: Dataset, content: bytes):
    (dataset.path / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        manifest.load(dataset.path)


def test_a_shard_that_is_missing_or_cut_off_is_named(dataset: Dataset):
    shard = dataset.path / "train-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.tfrecord has 6999 bytes, but dataset.json says 7000"):
        manifest.load(dataset.path)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00002\.tfrecord is missing"):
        manifest.load(dataset.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_the_shards_may_be_unknown(dataset: Dataset):
    os.chown(dataset.path / "train-00000-of-00002.tfrecord", 54_321, 54_321)
    assert manifest.load(dataset.path) == dataset


def test_corrupt_shards_are_named_by_their_checksum(dataset: Dataset):
    assert manifest.corrupt_shards(dataset, "train") == []
    shard = dataset.path / "train-00001-of-00002.tfrecord"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(bytes(content))
    assert manifest.corrupt_shards(manifest.load(dataset.path), "train") == ["train-00001-of-00002.tfrecord"]
    assert manifest.corrupt_shards(dataset, "validation") == []
