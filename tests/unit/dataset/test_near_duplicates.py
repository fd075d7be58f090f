"""near_duplicates.csv: what is written is read, and damage is told."""

from pathlib import Path

import pytest

from tests.support import drawn
from tests.support.locales import ascii_only
from trainer.dataset import manifest, near_duplicates
from trainer.dataset.near_duplicates import NearDuplicate
from trainer.errors import UserError


def test_what_is_written_is_read_and_what_was_not_looked_for_is_not_known(tmp_path: Path):
    dataset = drawn.dataset(tmp_path, train=4, validation=2, test=2, shard_count=1)
    assert near_duplicates.leaked(dataset, "test") is None
    rows = [NearDuplicate('a,"b"\n', "test", "ü", "train", 3), NearDuplicate("c", "train", "d", "validation", 0)]
    with ascii_only():
        near_duplicates.write(rows, tmp_path / near_duplicates.FILE)
    leaked = {split: near_duplicates.leaked(dataset, split) for split in manifest.SPLITS}
    assert leaked == {"train": {"c"}, "validation": set(), "test": {'a,"b"\n'}}


HEADER = b"id,split,other_id,other_split,distance\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id,split\n",
        b"\xff",
        HEADER + b"a,test,b\n",
        HEADER + b"a,tomorrow,b,train,3\n",
        HEADER + b"a,test,b,train,3,more\n",
        # A quotation mark that is never closed, and one that is misplaced.
        HEADER + b'"a,test,b,train,3\n',
        HEADER + b'"a"b,test,b,train,3\n',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes):
    dataset = drawn.dataset(tmp_path, train=4, validation=2, test=2, shard_count=1)
    (tmp_path / near_duplicates.FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"near_duplicates\.csv is damaged \(.+\): restore it or prepare") as error:
        near_duplicates.leaked(dataset, "test")
    assert "\n" not in str(error.value)


def test_films_are_counted_by_their_two_splits():
    pairs = [("test", "train"), ("test", "train"), ("train", "test"), ("test", "validation")]
    found = near_duplicates.counts(NearDuplicate("a", one, "b", other, 0) for one, other in pairs)
    assert found == {("test", "train"): 2, ("train", "test"): 1, ("test", "validation"): 1}
    assert found["validation", "train"] == 0
