"""Tests of reading CSVs in all the formats that users bring."""

from pathlib import Path

import pytest
from etils import epath

from trainer.catalog import catalog
from trainer.catalog.columns import Columns
from trainer.dataset.rejects import Reason
from trainer.errors import UserError

ALIEN = ("Horror", "Sci-Fi")
HEAT = ("Crime", "Drama")


@pytest.fixture
def read(tmp_path: Path):
    """Returns a function that reads a CSV from its text or bytes."""

    def read_csv(content: str | bytes, **columns) -> catalog.Catalog:
        path = tmp_path / "films.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return catalog.read(epath.Path(path), Columns(**columns))

    return read_csv


def genres(found: catalog.Catalog) -> dict[str, tuple[str, ...]]:
    return {film.id: film.genres for film in found.films}


def reasons(found: catalog.Catalog) -> list[tuple[int, Reason]]:
    return [(reject.row, reject.reason) for reject in found.rejects]


@pytest.mark.parametrize(
    "content",
    [
        "Id,Genre\ntt1,\"['Horror', 'Sci-Fi']\"\ntt2,\"['Crime', 'Drama']\"\n",
        'id,genres\ntt1,"[""Horror"", ""Sci-Fi""]"\ntt2,"[""Crime"", ""Drama""]"\n',
        "tconst\tgenres\ntt1\tHorror,Sci-Fi\ntt2\tCrime,Drama\n",
        "imdbId,Genre\ntt1,Horror|Sci-Fi\ntt2,Crime|Drama\n",
        'id,genre\ntt1,"Horror, Sci-Fi"\ntt2,"Crime, Drama"\n',
        "id;genre\ntt1;Horror, Sci-Fi\ntt2;Crime, Drama\n",
        "id|genre\ntt1|Horror, Sci-Fi\ntt2|Crime, Drama\n",
        "id,Crime,Drama,Horror,Sci-Fi\ntt1,0,0,1,1\ntt2,1,1,0,0\n",
        "id,Crime,Drama,Horror,Sci-Fi\ntt1,False,False,True,True\ntt2,1.0,1.0,0.0,0.0\n",
        "id,genre\ntt1,\"['Horror' 'Sci-Fi']\"\ntt2,\"['Crime' 'Drama']\"\n",
        'id,genre\ntt1,"[Horror, Sci-Fi]"\ntt2,"[Crime, Drama]"\n',
        "id,genres\ntt1,\"[{'id': 1, 'name': 'Horror'}, {'id': 2, 'name': 'Sci-Fi'}]\"\ntt2,Crime|Drama\n",
        "tt1,Horror|Sci-Fi\ntt2,Crime|Drama\n",
        "tt1 Horror|Sci-Fi\ntt2 Crime|Drama\n",
        "tt1 Horror Sci-Fi\ntt2 Crime Drama\n",
        "tt1 ['Horror', 'Sci-Fi']\ntt2 ['Crime', 'Drama']\n",
        "tt1\t1979\tHorror, Sci-Fi\ntt2\t1995\tCrime, Drama\n",
        "tt1,Alien,Horror|Sci-Fi\r\ntt2,Heat,Crime|Drama\r\n",
        'title,year,kind,film\nAlien,1979,"Horror, Sci-Fi",tt1\n"Heat",1995,"Crime, Drama",tt2\n',
    ],
)
def test_genres_are_read_in_every_form(read, content: str):
    assert genres(read(content)) == {"tt1": ALIEN, "tt2": HEAT}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_every_encoding_is_recognised(read, encoding: str):
    text = "id,genre\namélie,Comédie|Drama\n" + "".join(f"tt{n},Drama\n" for n in range(20))
    assert genres(read(text.encode(encoding)))["amélie"] == ("Comédie", "Drama")


def test_windows_1252_characters_outside_latin_1_are_read(read):
    assert list(genres(read("id,genre\n“8½” – Fellini’s,Drama\n".encode("cp1252"), id="id"))) == ["“8½” – Fellini’s"]


def test_films_with_different_numbers_of_genres_without_header_or_commas(read):
    content = "img/1.jpg Horror Sci-Fi\nimg/2.jpg Drama\nimg/3.jpg Crime Drama Romance\n"
    assert genres(read(content)) == {
        "img/1.jpg": ALIEN,
        "img/2.jpg": ("Drama",),
        "img/3.jpg": ("Crime", "Drama", "Romance"),
    }


def test_a_file_of_zeros_and_ones_without_header_needs_the_genres_names(read):
    content = "tt1 0 1 1\ntt2 1 0 0\n"
    assert genres(read(content, labels=("Drama", "Horror", "Sci-Fi"))) == {"tt1": ALIEN, "tt2": ("Drama",)}
    with pytest.raises(UserError, match=r"--label_columns.*3 columns of 0 and 1"):
        read(content)


def test_na_marks_a_missing_genre_and_is_not_a_genre(read):
    found = read("Id,Genre,Drama,N/A\ntt1,\"['N/A']\",0,1\ntt2,\"['Drama', 'N/A']\",1,1\ntt3,nan,0,0\ntt4,,0,0\n")
    assert genres(found) == {"tt2": ("Drama",)}
    assert reasons(found) == [(1, Reason.NO_GENRE), (3, Reason.NO_GENRE), (4, Reason.NO_GENRE)]


def test_a_column_named_na_is_not_a_genre(read):
    assert genres(read("id,Drama,N/A,War\ntt1,1,1,0\ntt2,0,0,1\n")) == {"tt1": ("Drama",), "tt2": ("War",)}


def test_genres_are_stripped_and_named_once(read):
    assert genres(read("id,genre\ntt1, Drama | War |Drama\n")) == {"tt1": ("Drama", "War")}


def test_a_film_has_the_genres_of_all_its_rows(read):
    found = read("id,title,genre\ntt1,Alien,Horror\ntt2,Heat,Crime\n\n tt1,Alien,Sci-Fi|Horror\n")
    assert genres(found) == {"tt1": ALIEN, "tt2": ("Crime",)}
    assert [film.row for film in found.films] == [1, 2]
    assert not found.rejects
    assert found.rows == 3  # A blank line is not a row.


def test_a_row_that_adds_no_genre_or_describes_another_film_is_repeated(read):
    found = read(
        "id,title,poster,genre\ntt1,Alien,a.jpg,Horror\ntt1,Alien,a.jpg,Horror\ntt1,Aliens,a.jpg,War\ntt1,Alien,b.jpg,War\n"
    )
    assert genres(found) == {"tt1": ("Horror",)}
    assert [(reject.row, reject.reason, reject.detail) for reject in found.rejects] == [
        (2, Reason.REPEATED, "row 1 has the same id"),
        (3, Reason.REPEATED, "row 1 has the same id, but another title"),
        (4, Reason.REPEATED, "row 1 has the same id, but another image"),
    ]


def test_a_row_without_genres_does_not_take_the_genres_of_another_row(read):
    found = read("id,genre\n tt1 ,N/A\ntt1,War\ntt1,['Drama\ntt1,N/A\n")
    assert genres(found) == {"tt1": ("War",)}
    assert reasons(found) == [(1, Reason.NO_GENRE), (3, Reason.BAD_GENRES), (4, Reason.REPEATED)]


def test_what_is_wrong_with_a_row_is_said_with_its_value(read):
    found = read("id,genre,split\n ,War,test\ntt2,N/A,test\ntt3,['War,test\ntt4,War,later\n", split="split")
    assert [(reject.id, reject.detail) for reject in found.rejects] == [
        ("", "column 'id' is empty"),
        ("tt2", "the row names no genre"),
        ("tt3", "the list has no closing bracket"),
        ("tt4", "'later' is neither train, validation nor test"),
    ]
    found = read("id,Drama,War\n" + "".join(f"tt{n},1,0\n" for n in range(9)) + "tt9,2,0\n")
    assert found.rejects[0].detail == "'2' is neither 0 nor 1"


def test_the_name_of_an_image_is_stripped_and_may_be_missing(read):
    found = read("id,genre,poster\n tt1 ,War, a.jpg \ntt2,War,N/A\n")
    assert [(film.row, film.id, film.image, film.split) for film in found.films] == [
        (1, "tt1", "a.jpg", None),
        (2, "tt2", "", None),
    ]


def test_rows_that_cannot_be_read_are_rejected_one_by_one(read):
    found = read('id,genre\ntt1,Drama,1\ntt2\n"tt"3",Drama\n,Drama\ntt5,"[\'Drama\', "\ntt6,Drama\ntt7,War,,\n')
    assert reasons(found) == [
        (1, Reason.BAD_ROW),
        (2, Reason.BAD_ROW),
        (4, Reason.NO_ID),
        (5, Reason.BAD_GENRES),
    ]
    assert genres(found) == {'"tt"3"': ("Drama",), "tt6": ("Drama",), "tt7": ("War",)}
    assert found.rows == len(found.films) + len(found.rejects) == 7


def test_a_cell_that_is_neither_0_nor_1_is_rejected(read):
    rows = "".join(f"tt{n},1,0\n" for n in range(9))
    found = read(f"id,Drama,War\n{rows}tt9,2,0\n")
    assert reasons(found) == [(10, Reason.BAD_GENRES)]


def test_ids_keep_leading_zeros(read):
    assert list(genres(read("imdbId,genres\n0114709,Drama\n007,War\n"))) == ["0114709", "007"]


def test_the_image_is_found_by_name_or_content_of_its_column(read):
    urls = read(
        "imdbId,Imdb Link,Title,Genre,Poster\n"
        '114709,http://films.example/title/tt114709,Toy,Comedy|Drama,"https://films.example/a._V1_CR0,0,182,268_AL_.jpg"\n'
        "113497,http://films.example/title/tt113497,Jumanji,Comedy,\n"
    )
    poster = "https://films.example/a._V1_CR0,0,182,268_AL_.jpg"
    assert [(film.id, film.image, film.url) for film in urls.films] == [("114709", poster, poster), ("113497", "", None)]
    paths = read("where,what\nposters\\a.jpg,Drama\nposters\\b.PNG,War\n")
    assert [(film.id, film.image) for film in paths.films] == [
        ("posters\\a.jpg", "posters\\a.jpg"),
        ("posters\\b.PNG", "posters\\b.PNG"),
    ]


def test_flags_choose_columns(read):
    content = "a,b,c,d,e\n1,x,War,Drama,val\n2,y,Drama,War,TRAIN\n3,z,War,War,later\n"
    found = read(content, id="b", image="a", genres="d", split="e")
    assert [(film.id, film.image, film.genres, film.split) for film in found.films] == [
        ("x", "1", ("Drama",), "validation"),
        ("y", "2", ("War",), "train"),
    ]
    assert reasons(found) == [(3, Reason.BAD_SPLIT)]


def test_label_columns_choose_among_columns_of_0_and_1(read):
    content = "id,adult,Drama,War\ntt1,1,1,0\ntt2,1,0,1\n"
    assert genres(read(content, labels=("Drama", "War"))) == {"tt1": ("Drama",), "tt2": ("War",)}


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("id,genre\n", {}, "no row"),
        ("id,title\ntt1,Alien\n", {}, "no column holds genres among 'id', 'title'.*--genres_column"),
        ("name,genre\nAlien,Horror\n", {}, "no column names the film.*'name', 'genre'.*--id_column"),
        (
            "id,genre\ntt1,War\n",
            {"genres": "genres"},
            "--genres_column=genres is not a column of the CSV: choose among 'id', 'genre'",
        ),
        ("id,genre\ntt1,War\n", {"labels": ("War",)}, "--label_columns=War is not a column"),
        ("id,genre\ntt1,War\n", {"labels": ("War",), "genres": "genre"}, "give one of them"),
        (b"PK\x03\x04\x00\x00\x00\x08", {}, "not a text file"),
    ],
)
def test_unusable_files_are_explained(read, content, columns, message: str):
    with pytest.raises(UserError, match=message):
        read(content, **columns)


def test_a_missing_file_is_explained(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist: check the path"):
        catalog.read(epath.Path(tmp_path / "nowhere.csv"), Columns())


def test_hostile_lists_are_rejected_and_not_evaluated(read):
    nested = "[" * 5000 + "]" * 5000
    found = read(f'id,genre\ntt1,"[__import__(\'os\').getcwd()]"\ntt2,{nested}\ntt3,"[1, 2]"\ntt4,["\\ud800"]\ntt5,War\n')
    assert reasons(found) == [(row, Reason.BAD_GENRES) for row in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("content", "read_as"),
    [
        ("id,genre\ntt1,Drama\n".encode("utf-8-sig"), "read as UTF-8, comma-separated, with a header"),
        ("id;genre\ntt1;Café\n".encode("utf-16"), "read as UTF-16, semicolon-separated, with a header"),
        (
            b"tt1 Horror Sci-Fi\ntt2 Drama\n",
            "read as UTF-8, an id, a blank and the genres in each line, without a header: columns are called by their number",
        ),
        (b'tconst\tgenres\ntt1\t"A" x\n', "read as UTF-8, tab-separated, no quoting, with a header"),
    ],
)
def test_how_the_file_was_read_is_said(read, content: bytes, read_as: str):
    assert read(content).read_as == read_as


def test_genres_in_several_columns_are_united(read):
    found = read("id,genre1,genre2,genre_id\ntt1,Horror,Sci-Fi,3\ntt2,Crime,N/A,4\ntt3,,,5\n")
    assert genres(found) == {"tt1": ALIEN, "tt2": ("Crime",)}
    assert reasons(found) == [(3, Reason.NO_GENRE)]


def test_spellings_that_differ_in_case_are_one_genre_and_said_once(read):
    found = read("id,genre\ntt1,Drama|WAR\ntt2,drama|War\ntt3,Drama|War|drama\n")
    assert genres(found) == {"tt1": ("Drama", "War"), "tt2": ("Drama", "War"), "tt3": ("Drama", "War")}
    assert found.notes == ("genres that differ in case alone are one: 'WAR' is 'War', 'drama' is 'Drama'",)
    many = "".join(f"tt{n},{name}\ntt{n + 100},{name.upper()}\ntt{n + 200},{name}\n" for n, name in enumerate("abcdefg"))
    assert read(f"id,genre\n{many}").notes[0].endswith("'D' is 'd', 'E' is 'e' and 2 more")


def test_what_is_unknown_in_columns_of_0_and_1_counts_as_0_and_is_said(read):
    found = read("id,Drama,War\ntt1,1,-1\ntt2,0,1\ntt3,,1.0\n")
    assert genres(found) == {"tt1": ("Drama",), "tt2": ("War",), "tt3": ("War",)}
    assert found.notes == ("2 cells of -1 or blank among the columns of 0 and 1 say unknown: they count as 0",)
    assert read("id,Drama,War\ntt1,1,0\n").notes == ()


def test_a_split_that_is_a_missing_value_is_shown_as_it_is(read):
    found = read("id,genre,split\ntt1,War, N/A\n", split="split")
    assert found.rejects[0].detail == "'N/A' is neither train, validation nor test"


def test_the_user_may_say_what_separates_the_genres(read):
    content = "id,genre\ntt1,Mystery, Thriller & more\n".replace("Mystery, Thriller & more", '"Mystery, Thriller & more"')
    assert genres(read(content, separator="none")) == {"tt1": ("Mystery, Thriller & more",)}
    assert genres(read(content, separator="&")) == {"tt1": ("Mystery, Thriller", "more")}
    assert genres(read(content)) == {"tt1": ("Mystery", "Thriller & more")}
    assert genres(read('id,title,genre\ntt1,a,"War\nNoir, x"\n', separator="\\n")) == {"tt1": ("War", "Noir, x")}
    with pytest.raises(UserError, match=r"^--genre_separator is empty: give the text between two genres"):
        read(content, separator="")


def test_a_part_of_a_list_is_never_a_genre(read):
    found = read("id,genre\ntt1,Drama|['War\ntt2,Drama\ntt3,Noir}|Drama\n")
    assert genres(found) == {"tt2": ("Drama",)}
    assert [(reject.reason, reject.detail) for reject in found.rejects] == [
        (Reason.BAD_GENRES, '"[\'War" is a part of a list, and not a genre'),
        (Reason.BAD_GENRES, "'Noir}' is a part of a list, and not a genre"),
    ]


def test_ids_that_pandas_made_floats_are_whole_and_a_missing_one_is_none(read):
    found = read("movieId,genre\n862.0,War\nnan,War\n0113497,Drama\n")
    assert list(genres(found)) == ["862", "0113497"]
    assert reasons(found) == [(2, Reason.NO_ID)]
    assert (found.distinct_ids, found.rows) == (2, 3)


def test_a_film_may_be_called_none(read):
    assert list(genres(read("poster,genre\nNone,War\nNaN,War\nAlien,War\n"))) == ["None", "NaN", "Alien"]


def test_titles_are_kept_for_the_preview(read):
    found = read("id,Primary_Title,genre\ntt1, Alien ,War\ntt2,N/A,War\n")
    assert [film.title for film in found.films] == ["Alien", None]


def test_many_genres_of_one_film_are_a_warning(read):
    rows = [f"tt{n},keyword {n}|Drama" for n in range(10)]
    found = read("\n".join(["id,genre", *rows]))
    assert found.warnings == (
        "10 of 11 genres have one film: check --genres_column and --genre_separator, or leave out rare genres with --min_examples",
    )
    assert read("\n".join(["id,genre", *rows[:9]])).warnings == ()
    assert read("\n".join(["id,genre", *(f"tt{n},keyword {n // 2}" for n in range(10))])).warnings == ()


def test_a_cell_of_an_image_may_be_a_url(read):
    found = read(
        "id,genre,poster,link\ntt1,War,HTTPS://x.example/1.jpg,\ntt2,War,gs://b/2.jpg,x\ntt3,War,3.jpg,x\n", image="poster"
    )
    assert [(film.image, film.url) for film in found.films] == [
        ("HTTPS://x.example/1.jpg", "HTTPS://x.example/1.jpg"),
        ("gs://b/2.jpg", "gs://b/2.jpg"),
        ("3.jpg", None),
    ]
