"""Lists of genres as programs write them into a cell."""

import pytest

from trainer.catalog.genres import lists


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("['War', 'Film Noir']", ["War", "Film Noir"]),
        ("('War',)", ["War"]),
        ("{'War', 'Drama'}", ["Drama", "War"]),
        ("frozenset({'War'})", ["War"]),
        ("set()", []),
        ("array(['War', 'Drama'], dtype=object)", ["War", "Drama"]),
        ("['War' 'Drama'\n 'Noir']", ["War", "Drama", "Noir"]),
        ("Index(['War'], dtype='object')", ["War"]),
        ('c("War", "Drama")', ["War", "Drama"]),
        ("WrappedArray(War, Film Noir)", ["War", " Film Noir"]),
        ("WrappedArray()", []),
        ('["War", null]', ["War"]),
        ("['War', nan, None]", ["War"]),
        ("[NaN]", []),
        ('"[\\"War\\"]"', ["War"]),
        ('"\\"[\\\\\\"War\\\\\\"]\\""', ["War"]),
        ('{War,"Science Fiction",Children\'s}', ["War", "Science Fiction", "Children's"]),
        ('{"a \\"b\\""}', ['a "b"']),
        ("{}", []),
        ("[War, Children's]", ["War", " Children's"]),
        ("[['War'], ['Drama', ['Noir']]]", ["War", "Drama", "Noir"]),
        ("[{'id': 10752, 'name': 'War'}, {'displayName': 'Drama'}]", ["War", "Drama"]),
        ('{"/m/07lt7": "War", "/m/01lt1": "Drama"}', ["War", "Drama"]),
        ('{"War": true, "Drama": false, "Noir": 1}', ["War", "Noir"]),
        ('{"genres": ["War"], "count": 1}', ["War"]),
        ("<War><Film Noir>", ["War", "Film Noir"]),
        (" [] ", []),
    ],
)
def test_a_list_is_read_in_every_form(cell, names):
    assert lists.parse(cell) == names
    assert lists.is_list(cell)


@pytest.mark.parametrize("cell", ["War", "(500) Days", "(no genres listed)", "War (1990)", '"War"', "<War", "a < b > c", "", '"'])
def test_what_is_no_list_is_left_to_the_separator(cell):
    assert lists.parse(cell) is None
    assert not lists.is_list(cell)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("['War', 'Dra", "the list has no closing bracket"),
        ("{'War'", "the list has no closing bracket"),
        ("('War', ", "the list has no closing bracket"),
        ("[{'name': 'Com", "the list has no closing bracket"),
        ("[28, 12]", "the list holds something other than names"),
        ("[{'id': 1}]", "the list holds something other than names"),
        ("{'War': 0.7}", "the list holds something other than names"),
        ("{'War': 2}", "the list holds something other than names"),
        ('["a\\nb"]', "the list holds something other than names"),
        ('["[War"]', "the list holds something other than names"),
        ("['War', Drama]", "the list cannot be parsed"),
        ("[War, [Drama]]", "the list cannot be parsed"),
        ("{War: Drama, [}", "the list cannot be parsed"),
        ("[__import__('os').getcwd()]", "the list cannot be parsed"),
    ],
)
def test_a_list_that_cannot_be_read_is_explained(cell, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        lists.parse(cell)


def test_texts_that_were_encoded_again_and_again_are_not_followed_without_end():
    cell = "['War']"
    for _ in range(3):
        cell = '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert lists.parse(cell) == ["War"]
    assert lists.parse('"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"') is None
