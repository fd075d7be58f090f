"""Which column of a CSV holds what."""

import pandas as pd
import pytest

from trainer.catalog import columns
from trainer.catalog.columns import Columns
from trainer.catalog.genres.separators import Separator
from trainer.catalog.tables.table import Table
from trainer.errors import UserError


def find(header, *rows, has_header=True, finder=None, **requested):
    cells = pd.DataFrame([row.split(";") for row in rows], columns=header.split(";"), dtype=str)
    return columns.find(Table(cells, has_header), Columns(**requested), finder)


@pytest.mark.parametrize("name", ["IMDb_ID", "imdb id", "tconst", "Movie-ID", "Film ID", "TMDB"])
def test_an_id_is_known_by_its_name_however_it_is_spelt(name):
    assert find(f"title;{name};Genre", "Alien;x;War").id == name


def test_of_several_known_names_the_most_telling_counts_and_of_equal_ones_the_first():
    assert find("tmdbId;imdbId;genre", "1;2;War").id == "imdbId"
    assert find("film;ID;id;genre", "x;1;2;War").id == "ID"
    layout = find("id;path;Poster_Path;tags;Genres", "1;a;b;x;War")
    assert (layout.image, layout.genres) == ("Poster_Path", ("Genres",))


def test_a_column_that_the_user_names_is_not_taken_for_another():
    assert find("tmdb;film;genre", "x;tt1;War", "y;tt2;War", split="tmdb").id == "film"
    assert find("tmdb;film;genre", "War;tt1;x", "War;tt2;y", genres="tmdb").id == "film"
    for requested in ({"genres": "poster"}, {"split": "poster"}, {"id": "poster"}):
        assert find("poster;id;genre;image", "War;1;War;a", **requested).image == "image"
    assert find("a;id;genre;b", "x.jpg;1;War;y.jpg", split="a").image == "b"
    assert find("a;id;b", "['x.jpg'];1;y.jpg", genres="a").image == "b"
    assert find("a;b;genre;image", "tt1;tt2;War;x", "tt3;tt4;War;y", split="a").id == "b"
    assert find("a;b;image", "tt1;tt2;x", "tt3;tt4;y", genres="a").id == "b"
    assert find("a;b;genre", "tt1;tt2;War", "tt3;tt4;War", image="a").id == "b"
    assert find("a;b;genre;image", "1;2;War;x", "3;4;War;y", split="a").id == "image"
    assert find("a;b;image", "1;2;x", "3;4;y", genres="a").id == "image"
    assert find("a;b;genre", "1;2;War", "3;4;War", image="a").id == "a"


def test_a_column_of_ids_repeats_none():
    rows = [f"tt9;{2000 + n % 2};tt{n};{n};War" for n in range(10)]
    assert find("series;year;film;number;genre", *rows).id == "film"
    rows = [f"{2000 + n % 2};{n};War" for n in range(10)]
    assert find("year;number;genre", *rows).id == "number"
    # Four fifths are enough: rows may be repeated.
    assert find("film;genre", *(f"tt{n % 4};War" for n in range(5))).id == "film"
    assert find("film;number;genre", *(f"tt{n % 3};{n};War" for n in range(5))).id == "number"


def test_an_imdb_id_is_preferred_to_a_number():
    assert find("number;film;genre", *(f"{n};tt{n};War" for n in range(3))).id == "film"


def test_without_an_id_the_image_names_the_film_and_the_other_way_round():
    layout = find("where;genre", "a.jpg;War", "b.png;War")
    assert (layout.id, layout.image) == ("where", "where")
    layout = find("id;genre", "x;War")
    assert (layout.id, layout.image) == ("id", "id")
    with pytest.raises(
        UserError,
        match=r"^--csv: no column names the film or its image among 'title', 'genre': name one with --id_column or --image_column$",
    ):
        find("title;genre", "Alien;War")


@pytest.mark.parametrize(
    ("header", "rows", "genres"),
    [
        ("id;a;b", ["1;x;War", "2;y;Sci-Fi, Horror"], "b"),
        ("id;a;b", ["1;x;['Splatter']", "2;y;['Gore', 'Slasher']"], "b"),
        ("id;a;b", ["1;x;Splatter|Gore", "2;y;Gore|Slasher"], "b"),
        ("id;a;b;c", ["1;x|y;['Splatter'];War", "2;x|z;['Gore'];War"], "c"),
        ("id;a;b", ["1;x|y;['Splatter']", "2;x|z;['Gore']"], "b"),
        # A column of 0 and 1 is a genre itself, whatever its name.
        ("id;label;Genres", ["1;0;War", "2;1;War"], "Genres"),
        # Four fifths are enough, of the cells with a value.
        ("id;a;b", ["1;;War", "2;;N/A", "3;;War", "4;;War", "5;;War", "6;;other"], "b"),
    ],
)
def test_the_genres_are_found_by_their_content(header, rows, genres):
    layout = find(header, *rows)
    assert (layout.genres, layout.labels) == ((genres,), {})


def test_a_column_with_too_few_genres_is_none():
    with pytest.raises(UserError, match="no column holds genres among 'id', 'a'"):
        find("id;a", *(f"{n};War" for n in range(3)), "8;other")


def test_the_separator_is_that_of_the_genres():
    assert find("id;genre;other", "1;War|Noir;x").separator == Separator("|")
    assert find("id;genre;other", "1;War;x|y").separator is None
    assert find("id;Drama;War", "1;0;1").separator is None


def test_columns_of_0_and_1_are_genres():
    layout = find("id;;Drama;War;title;N/A", "1;0;0;1;x;1", "2;1;1;1;y;0")
    assert (layout.genres, layout.labels) == ((), {"Drama": "Drama", "War": "War"})
    assert find("id;Drama;War;train", "1;0;1;1", split="train").labels == {"Drama": "Drama", "War": "War"}
    assert find("poster;Drama;War;Noir", "1;0;1;1", id="Drama", image="poster").labels == {"War": "War", "Noir": "Noir"}
    assert find("id;Drama;War;Noir", "1;0;1;1", image="Drama").labels == {"War": "War", "Noir": "Noir"}


def test_one_column_of_0_and_1_is_too_few():
    with pytest.raises(
        UserError,
        match=r"^--csv: no column holds genres among 'id', 'Drama': name it with --genres_column, or with --label_columns if each "
        r"genre has a column of 0 and 1$",
    ):
        find("id;Drama", "1;0")


def test_named_columns_of_0_and_1_win_over_lists():
    layout = find("id;genre;Drama;War;Noir", "1;x;0;1;1", labels=("War", "Drama"))
    assert (layout.genres, list(layout.labels.items())) == ((), [("War", "War"), ("Drama", "Drama")])
    with pytest.raises(UserError, match=r"^--label_columns=Crime is not a column of the CSV: choose among 'id', 'genre'$"):
        find("id;genre", "1;x", labels=("Crime",))
    with pytest.raises(UserError, match=r"^--genres_column and --label_columns exclude each other: give one of them$"):
        find("id;genre;Drama", "1;x;1", labels=("Drama",), genres="genre")


def test_without_a_header_the_columns_of_0_and_1_need_names():
    layout = find("1;2;3", "tt1;0;1", "tt2;1;1", has_header=False, labels=("Drama", "War"))
    assert layout.labels == {"2": "Drama", "3": "War"}
    for names in ((), ("Drama",), ("Drama", "War", "Noir")):
        with pytest.raises(
            UserError,
            match=rf"^--label_columns must name the genres of the 2 columns of 0 and 1 \(2, 3\) in this order, as the CSV has no "
            rf"header, got {len(names)} names$",
        ):
            find("1;2;3", "tt1;0;1", "tt2;1;1", has_header=False, labels=names)


@pytest.mark.parametrize(
    ("requested", "flag"),
    [
        ({"id": "x"}, "--id_column"),
        ({"image": "x"}, "--image_column"),
        ({"split": "x"}, "--split_column"),
        ({"genres": "x"}, "--genres_column"),
    ],
)
def test_a_column_that_does_not_exist_is_named_with_its_flag(requested, flag):
    with pytest.raises(UserError, match=rf"^{flag}=x is not a column of the CSV: choose among 'id', 'genre'$"):
        find("id;genre", "1;War", **requested)
    with pytest.raises(UserError, match=r"choose among '1', '2' \(the CSV has no header\)$"):
        find("1;2", "tt1;War", has_header=False, **requested)


def test_only_the_first_thousand_rows_are_looked_at():
    rows = [f"{n};War" for n in range(1000)] + [f"{n};other" for n in range(1000, 3000)]
    assert find("id;a", *rows).genres == ("a",)


@pytest.mark.parametrize(
    ("header", "row", "genres"),
    [
        ("id;genre1;genre2", "1;War;Noir", ("genre1", "genre2")),
        ("id;Genre;Genre_2;Genre_3", "1;War;Noir;x", ("Genre", "Genre_2", "Genre_3")),
        ("id;genre;genre.1", "1;War;Noir", ("genre", "genre.1")),
        ("id;genres/0/id;genres/0/name;genres/1/name", "1;5;War;Noir", ("genres/0/name", "genres/1/name")),
        ("id;Primary Genre;Secondary Genre", "1;War;Noir", ("Primary Genre", "Secondary Genre")),
        ("id;género 1;género 2", "1;War;Noir", ("género 1", "género 2")),
        ("id;genres;genre1;genre2", "1;War|Noir|x;War;Noir", ("genres", "genre1", "genre2")),
        ("id;genres;label1;label2", "1;War|Noir|x;War;Noir", ("genres",)),
        ("id;genres;label1;label2", "1;War;War;Noir", ("label1", "label2")),
        ("id;genre;genre_id", "1;War;10752", ("genre",)),
        ("id;genre1;year", "1;War;1990", ("genre1",)),
        ("id;movie_genres;genre_count", "1;War, Noir;2", ("movie_genres",)),
        ("id;main_genre;sub_genre1", "1;x;y", ("main_genre", "sub_genre1")),
        ("id;listed_in", "1;International Movies, Dramas", ("listed_in",)),
        ("id;类型;TAGS", "1;剧情/喜剧;a/b", ("TAGS",)),
        ("id;类型", "1;剧情/喜剧", ("类型",)),
        ("id;a;b", "1;War;unknown|Drama", ("a",)),
        ("id;a;b", "1;War;Drama", ("a", "b")),
    ],
)
def test_the_columns_of_genres_are_found_by_their_names(header, row, genres):
    assert find(header, row).genres == genres


def test_an_index_a_year_or_a_count_is_no_id_where_anything_else_is():
    assert find("column 1;year;votes;poster;genre", *(f"{n};{1990 + n};{n * 7};p{n}.jpg;War" for n in range(5))).id == "poster"
    assert find("rank;film_key;genre", *(f"{n};{n * 7};War" for n in range(5))).id == "film_key"
    assert find("director_id;number;genre", *(f"{n * 3};{n * 7};War" for n in range(5))).id == "director_id"
    assert find("rank;seven;genre", *(f"{n};{n * 7};War" for n in range(5))).id == "seven"
    assert find("rank;title;genre", *(f"{n};Film {n};War" for n in range(5))).id == "rank"


def test_a_number_of_thousands_of_digits_is_no_error():
    rows = [f"{'9' * 5000 if n == 2 else n};{n};War" for n in range(5)]
    assert find("n;key;genre", *rows).id == "key"


def test_a_link_is_no_id():
    assert find("imdb_link;poster;genre", *(f"https://x.example/{n};p{n}.jpg;War" for n in range(3))).id == "poster"


def test_an_error_names_a_few_columns_and_their_beginnings():
    header = ";".join(f"{'x' * 50}{n}" for n in range(40))
    with pytest.raises(UserError) as error:
        find(header, ";".join(["y"] * 40))
    assert str(error.value).count("x" * 40) == 30
    assert "x" * 41 not in str(error.value)
    assert " and 10 more: name " in str(error.value)
