"""Tests of finding images in a folder in any storage, and never outside it."""

import os
import zipfile
from pathlib import Path

import fsspec
import pytest

from trainer.dataset.rejects import Reason
from trainer.images.decode import ImageError
from trainer.sources import folders
from trainer.sources.folders import LocalFile
from trainer.sources.image_folder import listed_folder
from trainer.sources.lookup import How, ImageFinder

FILES = [
    *("tt0000001.jpg", "tt0000002.JPEG", "tt0000003.png", "tt0000004.webp", "notes.txt", "both.png", "both.jpg"),
    *("deep/tt0000005.jpg", "deep/both.jpg", "42.jpg", "a.b.jpg", "__MACOSX/deep/tt0000007.jpg", "deep/a b#ü.jpg"),
]
KINDS = ("folder", "zip", "memory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose files hold their own paths."""
    root = tmp_path / "posters"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "secret.jpg").write_text("secret")
    return root


@pytest.fixture(params=KINDS)
def anywhere(folder: Path, request: pytest.FixtureRequest) -> ImageFinder:
    """A finder over the same files in each kind of storage that needs no server."""
    match request.param:
        case "zip":
            with zipfile.ZipFile(folder.parent / "posters.zip", "w") as archive:
                for name in FILES:
                    archive.write(folder / name, name)
            return folders.open_images(f"{folder}.zip")
        case "memory":
            for name in FILES:
                fsspec.filesystem("memory").pipe(f"{folder}/{name}", name.encode())
            return folders.open_images(f"memory:/{folder}")
        case _:
            return folders.open_images(str(folder))


@pytest.fixture
def linked(folder: Path) -> ImageFinder:
    """A finder over the folder with symbolic links."""
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "inner.jpg").symlink_to(folder / "42.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "way_out").symlink_to(folder.parent)
    return folders.open_images(str(folder))


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
        ("deep/a b#ü.jpg", "deep/a b#ü.jpg"),
        ("./notes.txt", "notes.txt"),
    ],
)
def test_found_by_id_or_path(anywhere: ImageFinder, name: str, found: str):
    assert anywhere.find(name).file.read().decode() == found


def test_a_link_inside_the_folder_is_followed(folder: Path, linked: ImageFinder):
    assert linked.find("inner").file == LocalFile(folder / "42.jpg")


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "../../etc/passwd", "..\\secret.jpg", "deep/../../secret.jpg", "/etc/passwd", "\\\\host\\a.jpg", "C:\\a.jpg"],
)
def test_a_path_that_leaves_the_folder_is_rejected(anywhere: ImageFinder, folder: Path, name: str):
    with pytest.raises(ImageError) as caught:
        anywhere.find(name)
    assert caught.value.reason is Reason.OUTSIDE_FOLDER
    assert str(folder.parent) not in caught.value.detail


@pytest.mark.parametrize("name", ["link", "link.jpg", "way_out/secret.jpg"])
def test_a_link_that_leaves_the_folder_is_rejected(linked: ImageFinder, name: str):
    with pytest.raises(ImageError) as caught:
        linked.find(name)
    assert caught.value.reason is Reason.OUTSIDE_FOLDER


@pytest.mark.parametrize(
    "name", ["tt9", "tt7", "notes", "deep", "deep/", "none.jpg", "x\0.jpg", "x" * 5000 + ".jpg", "..", ".", "", "./", "posters/"]
)
def test_what_is_not_an_image_in_the_folder_is_not_found(anywhere: ImageFinder, name: str):
    with pytest.raises(ImageError) as caught:
        anywhere.find(name)
    assert caught.value.reason is Reason.NO_PICTURE


def test_a_link_in_a_circle_is_not_found(linked: ImageFinder):
    with pytest.raises(ImageError) as caught:
        linked.find("loop.jpg")
    assert caught.value.reason is Reason.NO_PICTURE


def test_a_pipe_is_not_opened(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(ImageError):
        folders.open_images(str(folder)).find("pipe")


def test_one_subfolder_that_holds_all_images_need_not_be_named(tmp_path: Path):
    for name in ("outer/Posters/deep/a.jpg", "outer/__MACOSX/Posters/._a.jpg", "outer/readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = folders.open_images(str(tmp_path / "outer"))
    expected = LocalFile(tmp_path / "outer" / "Posters" / "deep" / "a.jpg")
    assert {found.find(name).file for name in ("deep/a.jpg", "Posters/deep/a.jpg", "outer/Posters/deep/a.jpg", "a")} == {expected}
    (tmp_path / "outer" / "Other").mkdir()
    (tmp_path / "outer" / "Other" / "b.jpg").touch()
    assert folders.open_images(str(tmp_path / "outer")).find("deep/a.jpg").how is How.TAIL, "there are two subfolders now"


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


def test_the_listing_s_order_does_not_matter_to_which_image_an_id_means():
    """The higher folder counts, then the commoner extension, then the path."""
    for expected, *others in (
        ("b.webp", "a/b.jpg", "b/b.jpg"),
        ("a/b.jpeg", "a/b.png", "b/b.webp"),
        ("a/b.jpg", "b/b.jpg", "c/b.jpg"),
    ):
        for names in ((expected, *others), (*others, expected), (others[0], expected, *others[1:])):
            finder = ImageFinder(listed_folder("posters", [(name, LocalFile(Path(name))) for name in names]))
            assert finder.find("b").file == LocalFile(Path(expected))


def test_images_at_the_top_and_in_one_subfolder_are_not_in_one_subfolder():
    finder = ImageFinder(listed_folder("posters", [(name, LocalFile(Path(name))) for name in ("a.jpg", "deep/b.jpg")]))
    assert finder.find("deep/b.jpg").file == LocalFile(Path("deep/b.jpg"))
    assert finder.find("x/b.jpg").how is How.TAIL


@pytest.mark.parametrize("name", ["1", "tt1", "001", "tt0000001", "0000001", "tt00000001"])
@pytest.mark.parametrize("file", ["tt0000001.jpg", "0000001.jpg", "1.jpg", "tt1.jpg"])
def test_an_imdb_id_matches_with_and_without_zeros_and_letters(name, file):
    finder = ImageFinder(listed_folder("posters", [(file, LocalFile(Path(file)))]))
    assert finder.find(name).file == LocalFile(Path(file))


def test_the_spelling_of_the_csv_is_preferred():
    names = ["tt0000042.jpg", "42.jpg", "tt42.jpg", "0000042.jpg", "x.jpg"]
    finder = ImageFinder(listed_folder("posters", [(name, LocalFile(Path(name))) for name in names]))
    assert [finder.find(name).file for name in ("42", "tt42", "0000042", "042")] == [
        LocalFile(Path(name)) for name in ("42.jpg", "tt42.jpg", "0000042.jpg", "tt0000042.jpg")
    ]
    with pytest.raises(ImageError):
        finder.find("42a")


def test_a_path_that_is_refused_says_why():
    finder = ImageFinder(listed_folder("posters", []))
    for name, said in (
        ("/a.jpg", "'/a.jpg' is an absolute path"),
        ("C:a.jpg", "'C:a.jpg' is an absolute path"),
        ("../a.jpg", "'../a.jpg' leads out of the image folder"),
        ("a/../..", "'a/../..' leads out of the image folder"),
        ("a", "no image 'a' in the folder"),
    ):
        with pytest.raises(ImageError) as caught:
            finder.find(name)
        assert caught.value.detail == said


def test_images_that_lie_directly_in_one_subfolder_are_found_by_their_names():
    finder = ImageFinder(listed_folder("x", [(name, LocalFile(Path(name))) for name in ("Posters/a.jpg", "Posters/deep/b.jpg")]))
    assert finder.find("a.jpg").file == LocalFile(Path("Posters/a.jpg"))
    assert finder.find("deep/b.jpg").file == LocalFile(Path("Posters/deep/b.jpg"))
