"""Tests of what a listed folder holds."""

from pathlib import Path

import pytest

from trainer.sources.folders import LocalFile
from trainer.sources.image_folder import listed_folder


def test_entries_that_are_no_file_or_lead_out_of_the_folder_are_left_out():
    names = ["/root.jpg", "..", "../up.jpg", ".", "./", "deep/", "a/../../up.jpg", "deep/../a.jpg", "...", "..a.jpg", ".hidden.jpg"]
    listed = listed_folder("posters", [(name, LocalFile(Path(name))) for name in names])
    assert sorted(listed.files) == ["...", "..a.jpg", ".hidden.jpg", "a.jpg"]
    assert listed.name == "posters"


@pytest.mark.parametrize("names", [("a//b", "a/b", "a/./b"), ("a/b", "a//b"), ("a//b", "a/./b")])
def test_of_two_entries_with_the_same_path_the_normal_one_counts_and_else_the_first(names):
    listed = listed_folder("posters", [(name, LocalFile(Path("as") / f"{number}")) for number, name in enumerate(names)])
    expected = names.index("a/b") if "a/b" in names else 0
    assert listed.files == {"a/b": LocalFile(Path("as") / f"{expected}")}
