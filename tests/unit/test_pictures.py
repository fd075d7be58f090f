"""Finding pictures in a folder, and never outside it."""

import os
from pathlib import Path

import pytest

from trainer.data.images import PictureError
from trainer.data.pictures import PictureFolder
from trainer.data.rejects import Reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "posters"
    names = ["tt0000001.jpg", "tt0000002.JPEG", "tt0000003.png", "tt0000004.webp", "notes.txt", "both.png", "both.jpg"]
    for name in [*names, "deep/tt0000005.jpg", "deep/both.jpg", "42.jpg", "a.b.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "secret.jpg").touch()
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "inner.jpg").symlink_to(root / "42.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "way_out").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tt0000001", "tt0000001.jpg"),
        ("tt0000002", "tt0000002.JPEG"),
        ("tt0000003", "tt0000003.png"),
        ("tt0000004", "tt0000004.webp"),
        ("tt0000005", "deep/tt0000005.jpg"),
        ("1", "tt0000001.jpg"),
        ("0000001", "tt0000001.jpg"),
        ("tt42", "42.jpg"),
        ("both", "both.jpg"),
        ("a.b", "a.b.jpg"),
        ("tt0000001.jpg", "tt0000001.jpg"),
        ("deep/tt0000005.jpg", "deep/tt0000005.jpg"),
        ("deep\\tt0000005.jpg", "deep/tt0000005.jpg"),
        ("posters/deep/tt0000005.jpg", "deep/tt0000005.jpg"),
        ("./posters\\tt0000003.png", "tt0000003.png"),
        ("deep/both", "deep/both.jpg"),
        ("deep/../42.jpg", "42.jpg"),
        ("inner", "42.jpg"),
    ],
)
def test_found_by_id_or_path(folder: Path, name: str, found: str):
    assert PictureFolder(folder).find(name) == folder / found


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "../../etc/passwd",
        "..\\secret.jpg",
        "deep/../../secret.jpg",
        "/etc/passwd",
        "\\\\host\\share\\a.jpg",
        "C:\\a.jpg",
        "link",
        "link.jpg",
        "way_out/secret.jpg",
    ],
)
def test_a_path_that_leaves_the_folder_is_rejected(folder: Path, name: str):
    with pytest.raises(PictureError) as caught:
        PictureFolder(folder).find(name)
    assert caught.value.reason is Reason.OUTSIDE_FOLDER
    assert str(folder.parent) not in caught.value.detail


@pytest.mark.parametrize(
    "name", ["tt9", "notes", "deep", "deep/", "none.jpg", "loop.jpg", "x\0.jpg", "x" * 5000 + ".jpg", "..", "."]
)
def test_what_is_no_picture_of_the_folder_is_not_found(folder: Path, name: str):
    with pytest.raises(PictureError) as caught:
        PictureFolder(folder).find(name)
    assert caught.value.reason is Reason.NO_PICTURE


def test_a_pipe_is_not_opened(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(PictureError):
        PictureFolder(folder).find("pipe")
