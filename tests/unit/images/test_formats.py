"""Names of image files."""

import pytest

from trainer.images import formats


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("a.jpg", ".jpg"),
        ("folder/A.JPEG", ".JPEG"),
        ("b.c.png", ".png"),
        ("e.gif", ".gif"),
        ("f.jfif", ".jfif"),
        ("https://example.com/d.webp?width=300&name=e.jpg", ".webp?width=300&name=e.jpg"),
    ],
)
def test_the_end_of_an_images_name_or_url_is_found(name, end):
    found = formats.NAME_END.search(name)
    assert found
    assert found[0] == end


@pytest.mark.parametrize("name", ["a", "ajpg", "a.jpg.txt", "a.mp4", "a.png/b"])
def test_other_names_are_not_an_images(name):
    assert not formats.NAME_END.search(name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", ".jpg")),
        ("deep/A.b.JFIF", ("deep/A.b", ".jfif")),
        ("x.avif", ("x", ".avif")),
        ("notes.txt", ("notes.txt", "")),
        ("Vol. 2.5", ("Vol. 2.5", "")),
        (".jpg", (".jpg", "")),
    ],
)
def test_a_name_is_split_before_the_extension_of_an_image(name, parts):
    assert formats.split(name) == parts


def test_a_dot_within_a_title_is_not_an_extension():
    names = ["poster17", "Dr. No", "Vol. 2.5", "Inc.", "c.jpg?v=1", "a.txt", "b.JPG", "d.tar.gz", "e.tfrecord"]
    assert [name for name in names if formats.has_no_extension(name)] == names[:5]


def test_hidden_files_and_folders_are_told_from_titles_that_begin_with_dots():
    hidden = [".a.jpg", "._a.jpg", ".git/a.jpg", "b/.c/a.jpg", "__MACOSX/a.jpg", "b/__MACOSX/c/a.jpg"]
    shown = ["a.jpg", "...a.jpg", "b/...a.jpg", "_a.jpg", "b/a.b.jpg", "__MACOSX.jpg", "b./a.jpg"]
    assert [name for name in hidden + shown if formats.is_hidden(name)] == hidden


def test_the_commoner_extension_comes_first_and_none_last():
    assert sorted(["", ".gif", ".webp", ".jpg", ".jpeg"], key=formats.rank) == [".jpg", ".jpeg", ".webp", ".gif", ""]
