"""Encoding, delimiter, header and rows of a CSV."""

import pytest

from trainer.catalog.tables import dialects, table
from trainer.dataset.rejects import Reason, Reject
from trainer.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Returns a function that reads a CSV from its text or bytes."""

    def read_csv(content):
        (tmp_path / "films.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return table.read(tmp_path / "films.csv")

    return read_csv


def rows(found):
    return list(found.rows.itertuples(index=False, name=None))


def numbered(found):
    return tuple(zip(found.rows.index, rows(found), strict=True))


def test_a_byte_that_windows_does_not_know_is_no_character(read):
    found = read(b"id,genre\ntt1,Caf\xe9\x81\n")
    assert found.rows["genre"].tolist() == ["Caf\xe9\ufffd"]
    assert found.read_as.startswith("read as Windows-1252 (byte 0xe9 at offset 16 is not UTF-8; looks Western European), comma")
    assert found.warnings == ("the encoding Windows-1252 was guessed: check the genres above, or save the CSV in UTF-8",)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_told_by_its_zeros(read, encoding):
    assert read("id,genre\ntt1,Čaj\n".encode(encoding)).rows["genre"].tolist() == ["Čaj"]


@pytest.mark.parametrize("content", [b"a\0b\0c", b"id" + bytes(5000) + b",genre\n"])
def test_what_is_not_text_is_explained(read, content):
    with pytest.raises(UserError, match=r"^--csv=.*films\.csv is not a text file: save it as CSV in UTF-8$"):
        read(content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_line_is_known(read, end):
    found = read(end.join(("film;kind", 'tt1;"Drama, War"', "tt2;Noir", "")))
    assert found.columns == ("film", "kind")
    assert rows(found) == [("tt1", "Drama, War"), ("tt2", "Noir")]


def test_a_field_in_quotes_may_hold_a_delimiter_or_a_new_line_and_follow_a_space(read):
    found = read('id, kind, plot\ntt1, "Drama, War", "one\r\ntwo"\ntt2, Noir, ""\n')
    assert found.columns == ("id", "kind", "plot")
    assert rows(found) == [("tt1", "Drama, War", "one\r\ntwo"), ("tt2", "Noir", "")]


def test_rows_are_counted_without_blank_lines_and_a_row_of_blank_cells_counts(read):
    found = read("id,genre\n\ntt1,Drama\n   \n,\ntt2,War\n")
    assert numbered(found) == ((1, ("tt1", "Drama")), (2, ("", "")), (3, ("tt2", "War")))
    found = read("tt1 Drama War\n\n  \ntt2 Noir\n")
    assert (found.genres_after_blanks, rows(found)) == (True, [("tt1", "Drama War"), ("tt2", "Noir")])


def test_a_row_with_other_fields_is_rejected_unless_the_surplus_is_blank(read):
    found = read('id,genre\ntt1,Drama,x\ntt2\ntt3,War, ,\n"tt"4,War\ntt5,Noir\n')
    assert numbered(found) == ((3, ("tt3", "War")), (4, ('"tt"4', "War")), (5, ("tt5", "Noir")))
    assert found.rejects == (
        Reject(1, "", Reason.BAD_ROW, "3 fields, but the first line has 2"),
        Reject(2, "", Reason.BAD_ROW, "1 fields, but the first line has 2"),
    )


def test_a_file_of_which_every_row_is_bad_is_read(read):
    found = read("id,genre\ntt1\ntt2\ntt3\n")
    assert rows(found) == []
    assert len(found.rejects) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,genre\n", "has a header but no rows: add one row per film"),
        ("", "is empty: give a CSV with one row per film"),
    ],
)
def test_a_file_without_rows_is_explained(read, content, said):
    with pytest.raises(UserError, match=rf"^--csv=.*films\.csv {said}$"):
        read(content)


def test_a_path_that_is_no_file_is_explained(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere.csv", tmp_path / "file" / "below.csv"):
        with pytest.raises(UserError, match=rf"^--csv={path} does not exist: check the path$"):
            table.read(path)
    with pytest.raises(UserError, match=rf"^--csv={tmp_path} is a folder: name the CSV in it$"):
        table.read(tmp_path)


def test_columns_without_a_name_or_with_the_same_name_get_different_names(read):
    assert read("id,genre,,\ntt1,War,1,2\n").columns == ("id", "genre", "column 3", "column 4")
    assert read("id,genre , genre,genre.1\ntt1,War,War,Noir\n").columns == ("id", "genre", "genre.1", "genre.1.1")


@pytest.mark.parametrize(
    ("content", "delimiter", "columns"),
    [
        # Each row has the fields of the first line: the first delimiter of which this is true, in the order tab ; , space bar.
        ("id;kind\ntt1;Drama, War\ntt2;Noir, War\n", ";", ("id", "kind")),
        ("id,a b\ntt1,c d\ntt2,e f\n", ",", ("id", "a b")),
        ("id a|b\ntt1 c|d\ntt2 e|f\n", " ", ("id", "a|b")),
        ("id|kind\ntt1|War\n", "|", ("id", "kind")),
        ("id\ttitle\tkind\ntt1\ta;b\tWar\n", "\t", ("id", "title", "kind")),
        # Four fifths of the rows are enough.
        ("id;a,b\ntt1;c,d\ntt2;e\ntt3;g,h\ntt4 i,j\n", ";", ("id", "a,b")),
        # A file of one column.
        ("film\ntt1\ntt2\n", ",", ("film",)),
        ("tt1\ntt2\n", ",", ("1",)),
        # A list in brackets is not cut.
        ("id,kind\ntt1,['Drama', 'War']\n", ",", ("id", "kind")),
        ("film;a, b;c\ntt1;['Drama', 'War'];x\n", ";", ("film", "a, b", "c")),
        # One genre in a column is no list of genres.
        ("tt1 1979 Horror\ntt2 1995 Drama\n", " ", ("1", "2", "3")),
        ("tt1 Horror\ntt2 Drama\n", " ", ("1", "2")),
        ("tt1 Horror Drama\ntt2 Drama War\n", None, ("1", "2")),
        # Lines of different lengths: each begins with a film, but the first may be a header.
        ("film genres\ntt1 Drama War Noir\ntt2 Drama\ntt3 War Noir Crime\n", None, ("film", "genres")),
        ("film genres\nAlien Drama War Noir\ntt2 Drama\ntt3 War Noir Crime\n", " ", ("film", "genres")),
    ],
)
def test_the_delimiter_is_found(read, content, delimiter, columns):
    assert dialects.find(content.splitlines(keepends=True)).delimiter == delimiter
    assert read(content).columns == columns


def test_of_two_irregular_delimiters_the_more_regular_one_counts(read):
    rows_with_commas = "".join(f"f{n},x\n" for n in range(7))
    assert len(read(f"film,a;b\n{rows_with_commas}f7;x\nf8;y\nf9\n").rows) == 7


def test_a_line_that_the_sample_cuts_does_not_count(read):
    """Only the beginning of a large file is looked at, and it ends anywhere."""
    plot = "x" * 30_000
    content = "film;a, b, c;plot\n" + "".join(f"f{n};War, Noir, Crime;{plot}\n" for n in range(4))
    assert read(content).columns == ("film", "a, b, c", "plot")
    assert len(read(content).rows) == 4


@pytest.mark.parametrize(
    ("content", "has_header"),
    [
        ("film,kind\nAlien,Horror\n", True),
        ("tt1,Horror\ntt2,War\n", False),
        ("a.jpg,Horror\nb.jpg,War\n", False),
        ("https://films.example/1,x\nhttps://films.example/2,y\n", False),
        ("Alien,['Horror']\nHeat,['War']\n", False),
        ("Alien,Horror\nHeat,War\n", False),
        ("film,Horror\nHeat,1\n", True),
        # A later row may be shorter.
        ("Alien,Horror\nHeat\nUp,Comedy\nBig,Drama\nJaws,Horror\n", False),
    ],
)
def test_a_header_is_told_from_a_row(read, content, has_header):
    found = read(content)
    assert found.has_header is has_header
    if not has_header:
        assert found.columns == ("1", "2")
