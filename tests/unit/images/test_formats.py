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
