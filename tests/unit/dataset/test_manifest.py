"""dataset.json, and what is refused."""

import base64
import dataclasses
import json
import os
from pathlib import Path

import pytest
from etils import epath

from tests.support import buckets
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
    empty = dataclasses.replace(dataset, splits={name: Split(0, {}, ()) for name in manifest.SPLITS})
    with pytest.raises(UserError, match=r"films has no examples in the split 'train': prepare more films$"):
        empty.split("train")


def test_a_folder_without_dataset_json_is_not_a_data_set(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
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


def test_the_shards_of_a_data_set_in_a_bucket_are_checked_without_reading_them(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    bucket = buckets.in_memory(monkeypatch, "posters")
    for path in dataset.path.iterdir():
        bucket.put(f"gs://posters/films/{path.name}", path.read_bytes())
    assert manifest.load("gs://posters/films").splits == dataset.splits
    assert [request.uri for request in bucket.asked("read")] == ["gs://posters/films/dataset.json"]
    assert manifest.corrupt_shards(manifest.load("gs://posters/films"), "train") == []
    name = "gs://posters/films/train-00001-of-00002.tfrecord"
    bucket.put(name, bytes(7000))
    with pytest.raises(
        UserError, match=rf"^{name} has another CRC32C than dataset.json says: restore it or prepare the data set again"
    ):
        manifest.load("gs://posters/films")
    del bucket.content[name]
    with pytest.raises(UserError, match=rf"^{name} is missing: restore it or prepare"):
        manifest.load("gs://posters/films")


def test_a_shard_of_which_cloud_storage_knows_no_checksum_is_judged_by_its_size(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    sizes = {shard.name: shard.bytes for split in dataset.splits.values() for shard in split.shards}
    monkeypatch.setattr(files, "stat", lambda path: files.Stat(sizes[path.name], "", 1))
    assert manifest.load(dataset.path) == dataset


def test_the_files_that_a_dataset_json_lists_are_known(dataset: Dataset):
    beside = ["train-00000-of-00009.tfrecord", "notes.txt", "test-00000-of-00001.tfrecord"]
    content = (dataset.path / "dataset.json").read_bytes()
    assert manifest.listed_files(content, beside) == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "validation-00000-of-00001.tfrecord",
    ]
    assert manifest.listed_files(b"{", beside) == ["test-00000-of-00001.tfrecord", "train-00000-of-00009.tfrecord"]


def test_the_text_of_a_data_set_is_readable_and_ends_with_a_new_line(dataset: Dataset):
    text = manifest.to_text(dataset)
    assert text.startswith('{\n  "version": 1,\n  "fingerprint": "')
    assert '"Élan"' in text
    assert text.endswith("}\n")


def test_the_fingerprint_of_a_data_set_stays_the_same_in_later_versions():
    shards = (Shard("train-00000-of-00001.tfrecord", 3, 100, "AAAAAA=="),)
    dataset = Dataset(epath.Path("-"), "", ("Drama", "Élan"), 48, 32, "jpeg", {"train": Split(3, {"Drama": 3, "Élan": 0}, shards)})
    assert manifest.fingerprint(dataset) == "400b34fb2907582c97610f59c9315ab8e14c901698922887883fac617b2216e9"


@pytest.mark.parametrize(
    ("name", "is_shard"),
    [
        ("train-00000-of-00001.tfrecord", True),
        ("validation-123456-of-1234567.tfrecord", True),
        ("dev-00000-of-00001.tfrecord", False),
        ("train-0000-of-00001.tfrecord", False),
        ("../train-00000-of-00001.tfrecord", False),
        ("train-00000-of-00001.tfrecord\n", False),
    ],
)
def test_a_shard_is_known_by_its_name(name: str, is_shard: bool):
    assert manifest.is_shard(name) is is_shard
