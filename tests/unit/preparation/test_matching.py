"""Which file is the image of which film."""

import pytest

from trainer.catalog.catalog import Film
from trainer.dataset.rejects import Reason
from trainer.errors import UserError
from trainer.preparation import matching
from trainer.sources import folders
from trainer.sources.lookup import How


def film(number, image="", url=None):
    return Film(number, f"id{number}", ("War",), image, url)


@pytest.fixture
def finder(tmp_path):
    def make(*files):
        for name in files:
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).touch()
        return folders.open_images(str(tmp_path / "images"))

    return make


def paths(found):
    return [(film.row, match and match.path) for film, match in zip(found.films, found.files, strict=True)]


def test_a_file_comes_before_a_url_and_only_what_is_missing_is_fetched(finder):
    films = [film(1, "a", "https://x.example/a.jpg"), film(2, "https://x.example/b.jpg", "https://x.example/b.jpg")]
    films += [film(3, "c", "https://x.example/c.jpg"), film(4, "d")]
    found = matching.match(films, finder("a.jpg", "b.jpg"))
    assert paths(found) == [(1, "a.jpg"), (2, "b.jpg"), (3, None)]
    assert [(reject.row, reject.reason) for reject in found.rejects] == [(4, Reason.NO_PICTURE)]
    assert found.found_by == {How.EXACT: 1, How.TAIL: 1}


def test_a_film_without_a_name_of_an_image_has_the_file_of_its_id_unless_it_is_another_films(finder):
    found = matching.match([film(1), film(2), film(3, "id2.jpg"), film(4)], finder("id1.jpg", "id2.jpg"))
    assert paths(found) == [(1, "id1.jpg"), (3, "id2.jpg")]
    assert [(reject.row, reject.detail) for reject in found.rejects] == [
        (2, "the CSV names no image, and the one with the film's id is another film's"),
        (4, "no image 'id4' in the folder"),
    ]


def test_a_file_that_the_ends_of_different_paths_lead_to_is_nobodys(finder):
    films = [film(1, "/x/a/1.jpg"), film(2, "/x/b/1.jpg"), film(3, "/x/a/2.jpg"), film(4, "/x/a/2.jpg"), film(5, "3.jpg")]
    found = matching.match(films, finder("1.jpg", "2.jpg", "3.jpg"))
    assert paths(found) == [(3, "2.jpg"), (4, "2.jpg"), (5, "3.jpg")]
    assert [(reject.row, reject.reason, reject.detail) for reject in found.rejects] == [
        (row, Reason.NO_PICTURE, "2 different paths in the CSV end in '1.jpg'") for row in (1, 2)
    ]


def test_of_a_bucket_with_a_copy_of_it_only_the_copy_is_read(finder):
    found = matching.match([film(1, "gs://b/1.jpg", "gs://b/1.jpg"), film(2, "gs://b/2.jpg", "gs://b/2.jpg")], finder("1.jpg"))
    assert paths(found) == [(1, "1.jpg")]
    assert [reject.row for reject in found.rejects] == [2]


def test_without_a_folder_every_film_has_a_url():
    films = [film(1, "gs://b/1.jpg", "gs://b/1.jpg"), film(2, "x", "https://x.example/2.jpg")]
    assert paths(matching.match(films, None)) == [(1, None), (2, None)]
    with pytest.raises(
        UserError, match=r"^--images is missing, but row 3 names the image 'x': name the folder or archive that holds it$"
    ):
        matching.match([*films, film(3, "x")], None)
    with pytest.raises(UserError, match=r"row 4 names the image 'id4'"):
        matching.match([film(4)], None)


def test_what_leads_out_of_the_folder_is_said(finder):
    found = matching.match([film(1, "/etc/passwd"), film(2, "../x.jpg")], finder("a.jpg"))
    assert [reject.reason for reject in found.rejects] == [Reason.OUTSIDE_FOLDER] * 2
