"""A folder of images without a CSV."""

import pytest

from trainer.catalog import image_tree
from trainer.dataset.rejects import Reason
from trainer.errors import UserError
from trainer.sources import folders


@pytest.fixture
def read(tmp_path):
    def read_tree(files):
        for name, content in files.items():
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(content)
        return image_tree.read(folders.open_images(str(tmp_path / "images")))

    return read_tree


def films(found):
    return [(film.row, film.id, film.genres, film.image, film.split) for film in found.films]


def test_the_name_of_an_images_folder_is_its_genre(read):
    found = read({"War/1.jpg": b"a", "old/Film Noir/2.png": b"b", "War/notes.txt": b"c", "3.jpg": b"d"})
    assert films(found) == [
        (2, "War/1.jpg", ("War",), "War/1.jpg", None),
        (3, "old/Film Noir/2.png", ("Film Noir",), "old/Film Noir/2.png", None),
    ]
    assert [(reject.row, reject.id, reject.reason) for reject in found.rejects] == [(1, "3.jpg", Reason.NO_GENRE)]
    assert (found.rows, found.distinct_ids) == (3, 2)


def test_the_same_file_in_several_folders_is_a_film_with_several_genres(read):
    found = read({"Drama/1.jpg": b"a", "War/1.jpg": b"a", "Noir/1.jpg": b"b", "War/2.jpg": b"a"})
    assert [(film.id, film.genres) for film in found.films] == [
        ("Drama/1.jpg", ("Drama", "War")),
        ("Noir/1.jpg", ("Noir",)),
        ("War/2.jpg", ("War",)),
    ]
    assert found.rows == 4


def test_folders_of_splits_at_the_top_assign_the_splits(read):
    found = read({"train/War/1.jpg": b"a", "train/Noir/1.jpg": b"a", "val/War/1.jpg": b"a", "test/Noir/2.jpg": b"c"})
    assert [(film.genres, film.split) for film in found.films] == [
        (("Noir",), "test"),
        (("Noir", "War"), "train"),
        (("War",), "validation"),
    ]
    assert found.layout.split == "the folders at the top"


def test_a_genre_may_be_called_test(read):
    assert [film.split for film in read({"test/1.jpg": b"a", "War/2.jpg": b"b"}).films] == [None, None]


def test_a_folder_without_folders_needs_a_csv(read):
    with pytest.raises(
        UserError, match=r"^--csv is missing, and no image is in a folder below --images, whose name would be its genre: name"
    ):
        read({"1.jpg": b"a"})
