"""Which column of a CSV names the files of a folder of images."""

import pandas as pd
import pytest

from trainer.catalog import columns, image_evidence
from trainer.catalog.columns import Columns
from trainer.catalog.tables.table import Table
from trainer.errors import UserError
from trainer.sources import folders


@pytest.fixture
def layout(tmp_path):
    """Returns a function that finds the columns of a table beside a folder with these files."""

    def find(files, table, **requested):
        folder = tmp_path / "images"
        folder.mkdir()
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        rows = pd.DataFrame({name: list(map(str, cells)) for name, cells in table.items()}, dtype=str)
        rows["genres"] = "War"
        return columns.find(Table(rows), Columns(**requested), folders.open_images(str(folder)))

    return find


IDS = [7, 3, 19, 12, 25, 1, 14, 22, 9, 30]


def jpg(names):
    return [f"{name}.jpg" for name in names]


@pytest.mark.parametrize(
    "others",
    [
        {"column 1": range(10)},
        {"Unnamed: 0": range(10)},
        {"rank": range(1, 11)},
        {"Rank": [5, 4, 3, 2, 1, 10, 9, 8, 7, 6]},
        {"year": range(1, 11)},
        {"numVotes": [n * 2 for n in range(1, 11)]},
        {"n": range(1, 11)},
        {"title": [f"Film {n}" for n in range(10)]},
        {"": range(10), "index": range(10), "year": range(20, 30)},
    ],
)
def test_the_column_of_ids_names_the_files_and_not_an_index_or_a_measure(layout, others):
    found = layout(jpg(IDS), {**others, "anime_id": IDS})
    assert (found.id, found.image, found.names_files) == ("anime_id", "anime_id", "anime_id")


def test_an_index_that_names_files_of_a_dense_folder_is_no_id_though_many_images_of_the_ids_are_missing(layout):
    ids = [n * 37 % 1000 for n in range(1, 31)]
    missing = set(ids[:16])
    found = layout(jpg(n for n in range(1000) if n not in missing), {"column 1": range(30), "movieId": ids})
    assert found.image == "movieId"


def test_a_rank_names_the_files_if_nothing_else_does(layout):
    found = layout(jpg(range(1, 11)), {"Title": [f"Film {n}" for n in range(10)], "Rank": range(1, 11), "Year": range(1990, 2000)})
    assert (found.id, found.image, found.title) == ("Rank", "Rank", "Title")


def test_a_rank_names_the_files_if_it_names_all_of_them_and_ids_only_some_by_chance(layout):
    ids = [1, 2, 3, *range(100, 107)]
    assert layout(jpg(range(1, 11)), {"Rank": range(1, 11), "film_id": ids}).image == "Rank"


def test_of_two_ids_the_one_that_names_the_files_counts(layout):
    found = layout(
        jpg(IDS), {"id": range(1, 11), "imdb_id": [f"tt{n:07d}" for n in range(50, 60)], "tmdb_id": [f"{n}.0" for n in IDS]}
    )
    assert (found.id, found.image) == ("tmdb_id", "tmdb_id")


def test_the_rows_number_is_no_film_in_a_table_with_a_row_for_each_genre(layout):
    films = [1, 1, 1, 2, 2, 3, 4, 4, 4, 5]
    assert layout(jpg(range(1, 6)), {"id": range(1, 11), "movie_id": films}).image == "movie_id"


def test_images_may_be_named_by_title_or_path_and_the_id_stays_the_id(layout):
    titles = [f"The Film {n}" for n in range(10)]
    found = layout(jpg(titles), {"imdb_id": [f"tt{n:07d}" for n in range(10)], "title": titles})
    assert (found.id, found.image) == ("imdb_id", "title")


def test_an_image_column_beats_an_id_that_names_the_same_files(layout):
    table = {"id": IDS, "backdrop": [f"b{n}.jpg" for n in IDS], "poster": [f"p{n}.jpg" for n in IDS]}
    files = [f"{letter}{n}.jpg" for n in IDS for letter in ("", "b", "p")]
    found = layout(files, table)
    assert (found.id, found.image) == ("id", "poster")


def test_an_image_column_whose_names_are_of_another_folder_names_nothing(layout):
    found = layout(jpg(IDS), {"id": IDS, "poster_path": [f"/x{n}.jpg" for n in IDS]})
    assert (found.id, found.image, found.url) == ("id", "id", None)


def test_urls_stay_the_source_of_what_the_folder_lacks(layout):
    found = layout(jpg(IDS[:8]), {"id": IDS, "poster": [f"https://films.example/{n}/poster.jpg" for n in IDS]})
    assert (found.image, found.url) == ("id", "poster")


def test_many_values_that_lead_to_one_file_name_no_images(layout):
    found = layout(["poster.jpg", *jpg(IDS)], {"url": [f"https://films.example/{n}/poster.jpg" for n in IDS], "id": IDS})
    assert found.image == "id"


def test_without_any_file_the_names_of_the_columns_count(layout):
    found = layout(["other.jpg"], {"poster": jpg("abcdefghij"), "id": IDS})
    assert (found.id, found.image, found.names_files) == ("id", "poster", None)


def test_a_column_that_the_user_names_counts_and_the_better_one_is_known(layout):
    found = layout(jpg(IDS), {"id": range(100, 110), "key": IDS}, image="id")
    assert (found.image, found.names_files) == ("id", "key")


def test_in_a_large_table_beside_a_few_images_all_rows_are_looked_at(layout, monkeypatch):
    monkeypatch.setattr(image_evidence, "_SAMPLE_ROWS", 10)
    ids = [n * 7 for n in range(1, 1001)]
    found = layout(
        ["tt0000035.jpg", "0693.jpg", "6993.jpg"], {"year": range(1000, 2000), "tmdb": ids, "name": [f"Film {n}" for n in ids]}
    )
    assert (found.image, found.names_files) == ("tmdb", "tmdb")


def test_nothing_names_the_film(layout):
    with pytest.raises(UserError, match="no column names the film or its image among 'kind', 'genres'"):
        layout(["other.jpg"], {"kind": ["a", "b"] * 5})
