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


def finder_of(*paths: str, folder: str = "posters") -> ImageFinder:
    return ImageFinder(listed_folder(folder, [(path, LocalFile(Path(path))) for path in paths]))


def found(finder: ImageFinder, name: str) -> tuple[str, How]:
    match = finder.find(name)
    assert match.file == LocalFile(Path(match.path))
    return match.path, match.how


def refused(finder: ImageFinder, name: str) -> tuple[Reason, str]:
    with pytest.raises(ImageError) as caught:
        finder.find(name)
    return caught.value.reason, caught.value.detail


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


def test_the_listing_s_order_does_not_matter_to_which_image_an_id_means():
    """The higher folder counts, then the commoner extension, then the path."""
    for expected, *others in (
        ("b.webp", "a/b.jpg", "b/b.jpg"),
        ("a/b.jpeg", "a/b.png", "b/b.webp"),
        ("a/b.jpg", "b/b.jpg", "c/b.jpg"),
    ):
        for names in ((expected, *others), (*others, expected), (others[0], expected, *others[1:])):
            finder = finder_of(*names)
            assert finder.find("b").file == LocalFile(Path(expected))


def test_images_at_the_top_and_in_one_subfolder_are_not_in_one_subfolder():
    finder = finder_of("a.jpg", "deep/b.jpg")
    assert finder.find("deep/b.jpg").file == LocalFile(Path("deep/b.jpg"))
    assert finder.find("x/b.jpg").how is How.TAIL


@pytest.mark.parametrize("name", ["1", "tt1", "001", "tt0000001", "0000001", "tt00000001"])
@pytest.mark.parametrize("file", ["tt0000001.jpg", "0000001.jpg", "1.jpg", "tt1.jpg"])
def test_an_imdb_id_matches_with_and_without_zeros_and_letters(name, file):
    finder = finder_of(file)
    assert finder.find(name).file == LocalFile(Path(file))


def test_the_spelling_of_the_csv_is_preferred():
    names = ["tt0000042.jpg", "42.jpg", "tt42.jpg", "0000042.jpg", "x.jpg"]
    finder = finder_of(*names)
    assert [finder.find(name).file for name in ("42", "tt42", "0000042", "042")] == [
        LocalFile(Path(name)) for name in ("42.jpg", "tt42.jpg", "0000042.jpg", "tt0000042.jpg")
    ]
    with pytest.raises(ImageError):
        finder.find("42a")


def test_a_path_that_is_refused_says_why():
    finder = finder_of()
    for name, said in (
        ("/a.jpg", "'/a.jpg' is an absolute path, and no image in the folder has its name"),
        ("C:a.jpg", "'C:a.jpg' is an absolute path, and no image in the folder has its name"),
        ("../a.jpg", "'../a.jpg' leads out of the image folder"),
        ("a/../..", "'a/../..' leads out of the image folder"),
        ("a", "no image 'a' in the folder"),
    ):
        with pytest.raises(ImageError) as caught:
            finder.find(name)
        assert caught.value.detail == said


def test_images_that_lie_directly_in_one_subfolder_are_found_by_their_names():
    finder = finder_of("Posters/a.jpg", "Posters/deep/b.jpg", folder="x")
    assert finder.find("a.jpg").file == LocalFile(Path("Posters/a.jpg"))
    assert finder.find("deep/b.jpg").file == LocalFile(Path("Posters/deep/b.jpg"))


ELSEWHERE = [
    "/kaggle/input/p/{}.jpg",
    "C:\\Users\\user\\Desktop\\posters\\{}.jpg",
    "\\\\server\\share\\{}.jpg",
    "../input/p/{}.jpg",
    "./data/raw/images/{}.jpg",
    "data/raw/images/{}.jpg",
    "data\\raw\\{}.jpg",
    "file:///home/me/{}.jpg",
    "gs://bucket/posters/{}.jpg",
    "https://host/t/p/w500/{}.jpg",
    "https://host/t/p/w500/{}.jpg?v=1#top",
    "http://me:secret@host/{}.jpg",
    "/media/posters/{}",
    "https://host/title/{}/",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_path_from_another_root_is_found_by_its_end(path):
    assert found(finder_of("x.jpg", "y.jpg", folder="f"), path.format("x")) == ("x.jpg", How.TAIL)


def test_tmdb_s_paths_begin_with_a_slash():
    assert found(finder_of("pQ000xYz.jpg"), "/pQ000xYz.jpg") == ("pQ000xYz.jpg", How.EXACT)


def test_a_url_s_escapes_are_read_and_a_file_may_keep_them_or_the_query():
    finder = finder_of("Der Müller.jpg", "b%20b.jpg", "c.jpg?v=1", "image.php?id=5", "d#1.jpg")
    for url, path in (
        ("https://host/Der%20M%C3%BCller.jpg", "Der Müller.jpg"),
        ("https://host/b%20b.jpg?v=2", "b%20b.jpg"),
        ("https://host/c.jpg?v=1", "c.jpg?v=1"),
        ("https://host/image.php?id=5", "image.php?id=5"),
        ("gs://bucket/d#1.jpg", "d#1.jpg"),
        ("file:///c/Der%20M%C3%BCller.jpg", "Der Müller.jpg"),
        ("img/Der%20M%C3%BCller.jpg", "Der Müller.jpg"),
    ):
        assert found(finder, url) == (path, How.TAIL)


def test_of_several_files_of_one_name_the_one_that_shares_the_longest_end_of_the_path_is_found():
    finder = finder_of("a/large/x.jpg", "b/large/x.jpg", "b/small/x.jpg", folder="f")
    assert found(finder, "/home/b/large/x.jpg") == ("b/large/x.jpg", How.TAIL)
    assert found(finder, "gs://bucket/data/small/x.jpg") == ("b/small/x.jpg", How.TAIL)
    assert found(finder, "C:\\B\\SMALL\\X.JPG") == ("b/small/x.jpg", How.TAIL)


def test_an_end_that_several_files_share_leads_to_none_of_them_and_names_two():
    finder = finder_of("a/large/x.jpg", "b/large/x.jpg", "b/small/x.jpg", folder="f")
    said = "may be 'a/large/x.jpg' or 'b/large/x.jpg': write the path of one of them"
    assert refused(finder, "/home/large/x.jpg") == (Reason.NO_PICTURE, f"'/home/large/x.jpg' {said}")
    assert refused(finder, "/home/x.jpg") == (Reason.NO_PICTURE, f"'/home/x.jpg' {said}")
    assert refused(finder, "x.jpg") == (Reason.NO_PICTURE, f"'x.jpg' {said}")


def test_the_folder_s_own_name_in_an_absolute_path_tells_a_file_from_one_in_a_subfolder():
    finder = finder_of("x.jpg", "thumbs/x.jpg", folder="posters")
    assert found(finder, "/home/me/posters/x.jpg") == ("x.jpg", How.EXACT)
    assert found(finder, "/home/me/posters/thumbs/x.jpg")[0] == "thumbs/x.jpg"
    assert refused(finder, "/home/me/img/x.jpg")[0] is Reason.NO_PICTURE


def test_a_number_at_the_end_of_a_date_or_title_is_not_a_film():
    finder = finder_of("50.jpg", "1995.jpg", "tt0000862.jpg")
    for text in ("50/50", "30/10/1995", "7/862"):
        assert refused(finder, text)[0] is Reason.NO_PICTURE
    assert found(finder, "https://www.imdb.com/title/tt0000862/") == ("tt0000862.jpg", How.TAIL)
    assert found(finder, "/data/50") == ("50.jpg", How.TAIL)
    assert found(finder, "img/tt0000862") == ("tt0000862.jpg", How.TAIL)


def test_the_poster_in_another_film_s_folder_is_not_found():
    assert refused(finder_of("12/poster.jpg", "x/y.jpg"), "/data/14/poster.jpg")[0] is Reason.OUTSIDE_FOLDER
    assert refused(finder_of("tt12/poster.jpg"), "data/tt14/poster.jpg")[0] is Reason.NO_PICTURE
    assert found(finder_of("12/poster.jpg", "x/y.jpg"), "/data/12/poster.jpg") == ("12/poster.jpg", How.TAIL)


def test_where_each_folder_numbers_its_images_a_number_in_another_folder_is_not_found():
    finder = finder_of("Drama/1.jpg", "War/1.jpg", "War/2.jpg")
    assert refused(finder, "data/Drama/2.jpg")[0] is Reason.NO_PICTURE
    assert found(finder, "data/War/2.jpg") == ("War/2.jpg", How.TAIL)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Poster_1.jpg", "poster_1.JPG"),
        ("poster_1", "POSTER_1.png"),
        ("Deep/Poster.jpg", "deep/poster.JPG"),
        ("Cr\u00e8me.jpg", "Cre\u0300me.jpg"),
        ("Cre\u0300me", "CR\u00c8ME.jpg"),
        ("STRASSE.jpg", "Straße.jpg"),
        ("a.jpg", "a .jpg"),
    ],
)
def test_case_and_unicode_form_do_not_matter_where_one_file_alone_fits(name, file):
    assert found(finder_of(file, "other.jpg"), name) == (file, How.CASE)


def test_the_exact_name_is_preferred_to_another_case_and_two_other_cases_lead_to_none():
    finder = finder_of("A.jpg", "a.jpg", "b/C.jpg", "c/c.jpg")
    assert [found(finder, name) for name in ("A.jpg", "a.jpg", "A", "a", "C", "c")] == [
        (path, How.EXACT) for path in ("A.jpg", "a.jpg", "A.jpg", "a.jpg", "b/C.jpg", "c/c.jpg")
    ]
    assert refused(finder, "a.JPG") == (Reason.NO_PICTURE, "'a.JPG' may be 'A.jpg' or 'a.jpg': write the path of one of them")
    assert refused(finder, "x/c.JPG")[0] is Reason.NO_PICTURE
    assert refused(finder_of("AB.jpg", "ab.jpg"), "Ab")[0] is Reason.NO_PICTURE


@pytest.mark.parametrize("file", ["x.jpeg", "x.jfif", "x.png", "x", "x.avif", "x.JPE", "X.png"])
def test_another_extension_than_the_csv_s_is_found_where_one_file_alone_has_the_name(file):
    assert found(finder_of(file, "y.jpg"), "x.jpg") == (file, How.EXTENSION)
    assert refused(finder_of(file, "x.webp"), "x.jpg")[0] is Reason.NO_PICTURE


def test_the_same_path_with_another_extension_is_preferred_to_the_name_in_another_folder():
    finder = finder_of("img/x.png", "other/x.jpg", *(f"{number}.jpg" for number in range(20)))
    assert found(finder, "img/x.jpg") == ("img/x.png", How.EXTENSION)
    assert found(finder, "other/x.png") == ("other/x.jpg", How.EXTENSION)
    assert found(finder, "data/x.jpg") == ("other/x.jpg", How.TAIL)
    assert refused(finder, "data/x.webp")[0] is Reason.NO_PICTURE


def test_in_another_case_too_the_only_subfolder_need_not_be_named():
    finder = finder_of("Posters/a.jpg", "Posters/t/a.jpg")
    assert found(finder, "A.jpg") == ("Posters/a.jpg", How.CASE)
    assert found(finder, "T/a.JPG") == ("Posters/t/a.jpg", How.CASE)


@pytest.mark.parametrize("file", ["x.jpe", "x.jfif", "x.pjpeg", "x.gif", "x.avif", "x.HEIC", "x.svg", "x"])
def test_an_id_finds_an_image_of_any_extension_and_without(file):
    assert found(finder_of(file), "x") == (file, How.EXACT)


@pytest.mark.parametrize(("name", "file"), [("862.0", "862.jpg"), ("114709.0", "tt0114709.jpg"), ("0862.00", "tt862.png")])
def test_an_id_that_pandas_made_a_float_is_found(name, file):
    assert found(finder_of(file), name) == (file, How.ID)


def test_a_file_that_is_called_so_is_preferred_to_an_id_in_another_form():
    assert found(finder_of("862.0.jpg", "862.jpg"), "862.0") == ("862.0.jpg", How.EXACT)
    assert refused(finder_of("862.jpg"), "862.5")[0] is Reason.NO_PICTURE
    assert refused(finder_of("862.jpg"), "9" * 5000)[0] is Reason.NO_PICTURE


def test_a_title_with_a_colon_is_not_a_drive():
    assert found(finder_of("C: The Film.jpg"), "C: The Film") == ("C: The Film.jpg", How.EXACT)
    assert refused(finder_of("x.jpg"), "C: The Film")[0] is Reason.NO_PICTURE


def test_blanks_around_a_name_do_not_matter():
    assert found(finder_of("a b.jpg"), "  a b.jpg\u00a0") == ("a b.jpg", How.EXACT)
    assert found(finder_of("a b.jpg"), "a b\u00a0") == ("a b.jpg", How.EXACT)


@pytest.mark.parametrize("file", [".x.jpg", "._x.jpg", ".git/x.jpg", "a/.hidden/x.jpg", "__MACOSX/x.jpg", "Thumbs.db"])
def test_hidden_files_are_not_images(file):
    finder = finder_of(file, "y.jpg")
    assert finder.count == 1
    for name in (Path(file).stem, file if file != "Thumbs.db" else "thumbs.db", f"/data/{Path(file).name}"):
        with pytest.raises(ImageError):
            finder.find(name)


def test_a_title_that_begins_with_dots_is_not_hidden():
    assert found(finder_of("...And Justice for All.jpg"), "...And Justice for All")[1] is How.EXACT


def test_the_images_of_a_folder_are_those_with_an_image_s_extension_and_those_that_begin_like_one(tmp_path):
    for name, content in {
        "b.jpg": b"",
        "deep/a.GIF": b"",
        "Vol. 2.5": b"\xff\xd8\xff\xe0",
        "poster": b"RIFF\0\0\0\0WEBPVP8 ",
        "README": b"about",
        "empty": b"",
        "notes.txt": b"\xff\xd8\xff",
        ".png": b"\x89PNG\r\n\x1a\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    finder = folders.open_images(str(tmp_path))
    assert finder.image_paths() == ["Vol. 2.5", "b.jpg", "deep/a.GIF", "poster"]
    assert finder.count == 4


def test_no_message_echoes_more_than_200_characters_of_a_name_or_a_url_s_secrets():
    for name in ("x" * 1000, f"/{'x' * 1000}.jpg", f"../{'y/' * 500}.jpg"):
        assert len(refused(finder_of("a.jpg"), name)[1]) < 280
    assert "secret" not in refused(finder_of("a.jpg"), "https://me:secret@host/b.jpg?key=secret")[1]


def test_thousands_of_files_of_one_name_are_told_apart_by_their_folders():
    finder = finder_of(*(f"{number}/poster.jpg" for number in range(2000)))
    assert found(finder, "/data/1234/poster.jpg") == ("1234/poster.jpg", How.TAIL)
    assert refused(finder, "/data/poster.jpg")[0] is Reason.NO_PICTURE
    assert refused(finder, "poster")[0] is Reason.NO_PICTURE
