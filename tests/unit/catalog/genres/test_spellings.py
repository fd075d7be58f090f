"""Spellings of one genre."""

from trainer.catalog.genres import spellings


def test_names_that_differ_in_case_blanks_or_unicode_form_have_the_commonest_spelling():
    case = {"drama": 2, "Drama": 3, "DRAMA": 1}
    others = {"Com\u00e9die": 1, "Come\u0301die": 1, "film  Noir": 1, "Film noir": 2}
    found = spellings.canonical(case | others)
    assert found == {
        **dict.fromkeys(("drama", "Drama", "DRAMA"), "Drama"),
        **dict.fromkeys(("Com\u00e9die", "Come\u0301die"), "Com\u00e9die"),
        **dict.fromkeys(("film  Noir", "Film noir"), "Film noir"),
    }
