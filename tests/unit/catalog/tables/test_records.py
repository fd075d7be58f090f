"""Records of a CSV, and quotation marks that quote nothing."""

import pytest

from trainer.catalog.tables import records
from trainer.catalog.tables.records import Dialect, Records


def read(text, delimiter=",", *, width=None, quoting=True):
    reader = Records(text.splitlines(keepends=True), Dialect(delimiter, quoting), width=width)
    return list(reader), reader


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a, b,c", ["a", "b", "c"]),
        ('a,"b, c",d', ["a", "b, c", "d"]),
        ('a, "b ""c""",d', ["a", 'b "c"', "d"]),
        ('a,"b \\"c\\", d",e', ["a", 'b "c", d', "e"]),
        # A mark that quotes nothing is a part of the text.
        ('a,"b" c,d', ["a", '"b" c', "d"]),
        ('a,b "c",d', ["a", 'b "c"', "d"]),
        ('a,7" single,d', ["a", '7" single', "d"]),
        ('a,"b,d', ["a", '"b', "d"]),
    ],
)
def test_a_line_has_its_fields(line, fields):
    assert read(f"{line}\nx,y,z\n", width=3)[0] == [fields, ["x", "y", "z"]]


def test_a_quoted_field_may_have_several_lines():
    found, reader = read('a,"one\n\ntwo, three",b\nc,d,e\n', width=3)
    assert found == [["a", "one\n\ntwo, three", "b"], ["c", "d", "e"]]
    assert (reader.quoted, reader.unquoted) == (1, 0)


def test_a_mark_that_is_never_closed_loses_no_row():
    rows = [f"{number},film {number},War" for number in range(50)]
    rows[10] = '10,"film 10,War'
    found, reader = read("\n".join(rows), width=3)
    assert len(found) == 50
    assert found[10] == ["10", '"film 10', "War"]
    assert (reader.quoted, reader.unquoted) == (0, 1)


def test_a_mark_that_a_later_row_closes_by_chance_loses_no_row():
    # The two marks would make one field of all that is between them, and so one row with as many fields as any other.
    found, _ = read('1,"film,War\n2,film,War\n3,film",War\n', width=3)
    assert found == [["1", '"film', "War"], ["2", "film", "War"], ["3", 'film"', "War"]]
    # Here the row would have other fields than the others.
    found, _ = read('1,"film,War\n2,film,"War",x\n3,film,War\n', width=3)
    assert [fields[0] for fields in found] == ["1", "2", "3"]


def test_without_quoting_every_mark_is_text():
    assert read('a\t"b"\t"c\n', "\t", quoting=False)[0] == [["a", '"b"', '"c']]


def test_the_delimiter_may_have_two_characters():
    assert read("1::The: End::War\n", "::", quoting=False)[0] == [["1", "The: End", "War"]]


def test_without_a_delimiter_the_first_word_is_a_field():
    assert read("tt1 War Noir\n\n  \ntt2\n", None)[0] == [["tt1", "War Noir"], ["tt2"]]


def test_blank_lines_are_skipped_and_rows_of_blank_fields_are_not():
    assert read("a,b\n\n   \n,\n", width=2)[0] == [["a", "b"], ["", ""]]


def test_marks_that_say_that_quoting_works_are_counted():
    _, reader = read('a,"b, c"\nd,"e"\nf,"g ""h"""\n', width=2)
    assert reader.quoted == 2, "a mark around a field that needs none says nothing"


def test_a_file_full_of_open_marks_is_read_in_a_bounded_time(monkeypatch):
    monkeypatch.setattr(records, "_MAX_READ_AGAIN", 10)
    taken = []

    def lines():
        for number in range(300):
            taken.append(number)
            yield f'{number},"film\n'

    found = list(Records(lines(), Dialect(","), width=2))
    assert [fields[0] for fields in found] == [str(number) for number in range(300)]
    assert len(taken) == 300


def test_a_field_may_be_longer_than_the_csv_module_reads_by_default():
    assert len(read('a,"' + "x, " * 100_000 + '"\n', width=2)[0][0][1]) == 300_000
