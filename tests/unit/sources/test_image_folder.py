"""What a listed folder holds, and how its files begin."""

from pathlib import Path

import fsspec
import pytest

from tests.support.zips import CONTENT, only_member, pack
from trainer.images.decode import ImageError
from trainer.sources.folders import LocalFile
from trainer.sources.fsspec_files import File
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


def test_the_beginning_of_a_file_is_read_from_any_storage(tmp_path):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    fsspec.filesystem("memory").pipe("/start/a.jpg", CONTENT)
    for image in (
        LocalFile(tmp_path / "a.jpg"),
        only_member(pack(tmp_path / "a.zip")),
        File("memory://start", "/start/a.jpg", None),
        File("memory://start", "/start/a.jpg", len(CONTENT)),
    ):
        assert image.read_start(12) == CONTENT[:12]
    for missing in (LocalFile(tmp_path / "b"), File("memory://start", "/start/b", None)):
        with pytest.raises(ImageError, match="no_picture: no such file"):
            missing.read_start(12)
