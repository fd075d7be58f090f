"""Which split a film belongs to."""

from collections import Counter

from trainer.catalog.catalog import Film
from trainer.dataset.rejects import Reason
from trainer.preparation import splits


def film(number: int, split: str | None = None) -> Film:
    return Film(number, f"tt{number:07d}", ("Drama",), f"tt{number:07d}", split=split)


def own_images(films: list[Film]) -> dict[str, str]:
    return {film.id: f"image of {film.id}" for film in films}


def test_eight_films_of_ten_are_for_training():
    films = [film(number) for number in range(1, 5001)]
    assigned, rejected = splits.assign(films, own_images(films))
    counts = Counter(assigned.values())
    assert not rejected
    assert abs(counts["train"] - 4000) < 100
    assert abs(counts["validation"] - 500) < 75
    assert abs(counts["test"] - 500) < 75


def test_the_split_of_a_film_is_this_for_ever():
    films = [film(number) for number in range(1, 13)]
    assigned, _ = splits.assign(films, own_images(films))
    assert [film.row for film in films if assigned[film.id] == "validation"] == [2, 5, 11]
    assert [film.row for film in films if assigned[film.id] == "test"] == [12]


def test_more_films_in_another_order_move_none():
    few = [film(number) for number in range(1, 101)]
    many = [film(number) for number in range(500, 0, -1)]
    before, _ = splits.assign(few, own_images(few))
    after, _ = splits.assign(many, own_images(many))
    assert before == {film.id: after[film.id] for film in few}


def test_films_that_share_an_image_go_with_the_first():
    films = [film(number) for number in range(1, 101)]
    alone, _ = splits.assign(films, own_images(films))
    first = next(film for film in films if alone[film.id] == "test")
    ordered = [first, *(film for film in films if film is not first)]
    together, rejected = splits.assign(ordered, {film.id: "the same" for film in ordered})
    assert together == {film.id: "test" for film in films}
    assert not rejected


def test_a_split_column_is_kept_and_films_that_share_an_image_across_splits_are_rejected():
    films = [film(1, "test"), film(2, "test"), film(3, "train"), film(4, "train")]
    images = {**own_images(films), films[1].id: "shared", films[2].id: "shared"}
    assigned, rejected = splits.assign(films, images)
    assert assigned == {films[0].id: "test", films[1].id: "test", films[3].id: "train"}
    assert [(reject.row, reject.reason, reject.detail) for reject in rejected] == [
        (3, Reason.SHARED_PICTURE, "the same image as row 2, which is in test")
    ]
