"""A data set: a folder with TFRecord shards of tf.train.Example, and dataset.json, which makes the folder a data set.

Features of an example:
  image/encoded   bytes: a JPEG file, or the raw uint8 pixels [height, width, 3], row by row
  image/format    bytes: b"jpeg" or b"raw"
  image/height, image/width   int64
  image/id        bytes: the film's id in UTF-8
  image/label     int64 [genres]: 1 for each genre of the film, otherwise 0, in the order of dataset.json
  image/label_text   bytes: the names of the film's genres in UTF-8, in the same order
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from etils import epath

from trainer.errors import UserError
from trainer.storage import files

VERSION = 1
SPLITS = ("train", "validation", "test")
ENCODINGS = ("jpeg", "raw")
DATASET_FILE = "dataset.json"

_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}-of-\d{{5,}}\.tfrecord")
REMEDY = "prepare the data set again with --overwrite"


@dataclass(frozen=True)
class Shard:
    """A TFRecord file.

    Attributes:
      name: the file's name in the folder of the data set.
      examples: the number of records.
      bytes: the size of the file.
      crc32c: the CRC32C of the whole file as Cloud Storage prints it: big-endian, in base64.
    """

    name: str
    examples: int
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class Split:
    """A split of the data set.

    Attributes:
      examples: the number of examples.
      genre_counts: the number of films with each genre, for all genres of the data set in its order, even if the number is 0.
      shards: the files, in the order of their numbers.
    """

    examples: int
    genre_counts: Mapping[str, int]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Dataset:
    """The content of dataset.json.

    Attributes:
      path: the folder of the data set.
      fingerprint: the SHA-256 that `fingerprint` returns.
      genres: the names of the genres, in the order of the labels.
      height: the height of the images in pixels.
      width: the width of the images in pixels.
      encoding: the encoding of the images, one of `ENCODINGS`.
      splits: the splits by name.
    """

    path: epath.Path
    fingerprint: str
    genres: tuple[str, ...]
    height: int
    width: int
    encoding: str
    splits: Mapping[str, Split]

    def split(self, name: str) -> Split:
        """Returns a split that has examples.

        Raises:
          UserError: the split does not exist or is empty.
        """
        split = self.splits.get(name)
        if split is None or not split.examples:
            filled = [known for known, content in self.splits.items() if content.examples]
            state = "has no split" if split is None else "has no examples in the split"
            choice = f"choose one of {', '.join(filled)}, or prepare" if filled else "prepare"
            raise UserError(f"{self.path} {state} {name!r}: {choice} more films")
        return split

    def shard_paths(self, name: str) -> list[str]:
        """Returns the paths of a split's shards for TensorFlow, in the order of their numbers."""
        return [str(self.path / shard.name) for shard in self.split(name).shards]


def shard_name(split: str, number: int, of: int) -> str:
    """Returns the file name of a shard.

    Args:
      split: the name of the split.
      number: the number of the shard, from 0.
      of: the number of shards in the split.
    """
    return f"{split}-{number:05d}-of-{of:05d}.tfrecord"


def load(data_dir: epath.PathLike) -> Dataset:
    """Reads a data set's dataset.json, and checks that the shards exist and have the right sizes.

    Raises:
      UserError: the folder is not a data set; its dataset.json is damaged, edited or of another version; or a shard is missing or
        has changed.
    """
    path = files.from_flag("--data_dir", str(data_dir))
    try:
        content = files.read(path / DATASET_FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"--data_dir={path} is not a data set, it has no {DATASET_FILE}: make one with "
            f"python -m trainer.prepare --output={path}"
        ) from None
    dataset = _parse(path, content)
    if dataset.fingerprint != fingerprint(dataset):
        raise UserError(f"{path / DATASET_FILE} is damaged (the fingerprint does not match the content): {REMEDY}")
    _check_shards(dataset)
    return dataset


def corrupt_shards(dataset: Dataset, split: str) -> list[str]:
    """Reads all shards of a split, and returns the names of those that have changed since prepare wrote them."""
    return [shard.name for shard in dataset.split(split).shards if files.checksum(dataset.path / shard.name) != shard.crc32c]


def fingerprint(dataset: Dataset) -> str:
    """Returns a SHA-256, in hexadecimal, of all that training depends on: the genres, the images' size and encoding, each shard."""
    content = {key: value for key, value in _to_json(dataset).items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def to_text(dataset: Dataset) -> str:
    """Returns the text of dataset.json, the same for the same data set on every machine."""
    return json.dumps(_to_json(dataset), indent=2, ensure_ascii=False) + "\n"


def is_shard(name: str) -> bool:
    """Returns whether a file name has the form that `shard_name` returns."""
    return _SHARD_NAME.fullmatch(name) is not None


def listed_files(content: bytes, beside: Iterable[str]) -> list[str]:
    """Returns the names of the shards that a dataset.json lists.

    Args:
      content: the content of dataset.json.
      beside: the names of the files in its folder; if dataset.json is damaged, all shards among them are returned.
    """
    try:
        return [shard.name for split in _parse(epath.Path(), content).splits.values() for shard in split.shards]
    except UserError:
        return sorted(filter(is_shard, beside))


def _to_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fingerprint": dataset.fingerprint,
        "genres": list(dataset.genres),
        "image": {"height": dataset.height, "width": dataset.width, "encoding": dataset.encoding},
        "splits": {
            name: {
                "examples": split.examples,
                "genre_counts": dict(split.genre_counts),
                "shards": [asdict(shard) for shard in split.shards],
            }
            for name, split in dataset.splits.items()
        },
    }


def _parse(path: epath.Path, data: bytes) -> Dataset:
    file = path / DATASET_FILE
    try:
        content = json.loads(data)
        version = content["version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged (it is not the JSON of trainer.prepare): {REMEDY}") from None
    if version != VERSION:
        raise UserError(f"{file} has version {version!r}, but this program reads version {VERSION}: {REMEDY}")
    try:
        genres = tuple(map(str, content["genres"]))
        if not genres or len(set(genres)) < len(genres):
            raise ValueError("no genres, or a genre twice")
        return Dataset(
            path=path,
            fingerprint=str(content["fingerprint"]),
            genres=genres,
            height=int(content["image"]["height"]),
            width=int(content["image"]["width"]),
            encoding=_one_of(ENCODINGS, content["image"]["encoding"]),
            splits={_one_of(SPLITS, name): _parse_split(split, genres) for name, split in content["splits"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}): {REMEDY}") from None


def _parse_split(content: Mapping[str, Any], genres: tuple[str, ...]) -> Split:
    shards = tuple(
        Shard(name=_checked_name(shard["name"]), examples=int(shard["examples"]), bytes=int(shard["bytes"]), crc32c=shard["crc32c"])
        for shard in content["shards"]
    )
    if set(content["genre_counts"]) != set(genres):
        raise ValueError("genre_counts has other genres than the data set")
    counts = {genre: int(content["genre_counts"][genre]) for genre in genres}
    split = Split(examples=int(content["examples"]), genre_counts=counts, shards=shards)
    if split.examples != sum(shard.examples for shard in shards):
        raise ValueError("the examples of a split are not the sum over its shards")
    return split


def _one_of(known: tuple[str, ...], value: str) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def _checked_name(name: str) -> str:
    """Returns the name of a shard; raises ValueError for another name, which might lead out of the folder."""
    if not is_shard(name):
        raise ValueError(f"{name!r} is not the name of a shard")
    return name


def _check_shards(dataset: Dataset) -> None:
    """Checks each shard by its name: a process that may read objects may not always list them."""
    with ThreadPoolExecutor(files.CONNECTIONS) as pool:
        for checked in [
            pool.submit(_check, dataset.path / shard.name, shard) for split in dataset.splits.values() for shard in split.shards
        ]:
            checked.result()


def _check(path: epath.Path, shard: Shard) -> None:
    try:
        found = files.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it or {REMEDY}") from None
    if found.size != shard.bytes:
        raise UserError(f"{path} has {found.size} bytes, but {DATASET_FILE} says {shard.bytes}: restore it or {REMEDY}")
    if found.crc32c and found.crc32c != shard.crc32c:
        raise UserError(f"{path} has another CRC32C than {DATASET_FILE} says: restore it or {REMEDY}")
