"""The index of a folder's paths: which files share the longest end of a path, and how often names repeat."""

import pytest

from trainer.sources.path_index import PathIndex, fold


def anything(_):
    return True


def test_a_path_is_in_the_index_only_as_it_is_written():
    index = PathIndex(["a/b.jpg", "notes.txt"])
    assert "a/b.jpg" in index
    assert "notes.txt" in index
    for other in ("b.jpg", "A/b.jpg", "a/b", "a", ""):
        assert other not in index


@pytest.mark.parametrize(
    ("parents", "stem", "shared", "paths"),
    [
        ([], "c", 1, ["a/b/c.jpg", "b/c.png", "c.jpg"]),
        (["b"], "c", 2, ["a/b/c.jpg", "b/c.png"]),
        (["A", "B"], "C", 3, ["a/b/c.jpg"]),
        (["x", "b"], "c", 2, ["a/b/c.jpg", "b/c.png"]),
        (["x"], "c", 1, ["a/b/c.jpg", "b/c.png", "c.jpg"]),
        (["x", "a"], "d", 2, ["a/d"]),
        (["x"], "d", 1, ["a/d"]),
        (["a"], "none", 0, []),
        ([], "notes", 0, []),
    ],
)
def test_the_files_that_share_the_longest_end_of_a_path_are_found(parents, stem, shared, paths):
    index = PathIndex(["a/b/c.jpg", "b/c.png", "c.jpg", "a/d", "notes.txt"])
    assert index.longest_tail(parents, stem, anything) == (shared, paths)


def test_a_file_that_does_not_count_gives_way_to_one_with_a_shorter_end():
    index = PathIndex(["a/b/c.jpg", "b/c.png"])
    assert index.longest_tail(["a", "b"], "c", lambda path: path.endswith(".png")) == (2, ["b/c.png"])
    assert index.longest_tail(["a", "b"], "c", lambda _: False) == (0, [])
    assert PathIndex(["a.jpg"]).longest_tail([], "a", lambda _: False) == (0, [])


def test_the_only_subfolder_is_the_one_that_holds_all_images():
    assert PathIndex(["p/a.jpg", "p/q/b.jpg", "notes.txt", "README"]).only_top == "p"
    assert PathIndex(["p/a", "p/b"]).only_top == "p", "no name tells which files are images"
    assert PathIndex(["p/a.jpg", "b.jpg"]).only_top is None
    assert PathIndex(["p/a.jpg", "q/b.jpg"]).only_top is None
    assert PathIndex([]).only_top is None


def test_how_many_images_have_the_name_of_another():
    assert PathIndex(["a/1.jpg", "b/1.png", "b/2.jpg", "b/3.jpg", "1.txt"]).repeated_share() == pytest.approx(1 / 3)
    assert PathIndex(["a.jpg"]).repeated_share() == PathIndex([]).repeated_share() == 0


def test_the_spellings_of_a_name_fold_to_one():
    assert fold("Cre\u0300me ") == fold("CR\u00c8ME") == "cr\u00e8me"
    assert fold(" A.b") == "a.b"
    assert fold("Stra\u00dfe") == fold("STRASSE")
    assert fold("\udcff") == "\udcff", "a file's name may hold bytes that are not valid text"
