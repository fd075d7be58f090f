"""Which epoch is the best, and which columns a history has."""

import pytest

from trainer.job import history


def rows(*ratings, losses=None):
    return [
        {"epoch": epoch, "val_loss": 1.0 if losses is None else losses[epoch - 1]}
        | ({} if rating is None else {history.MONITOR: rating})
        for epoch, rating in enumerate(ratings, start=1)
    ]


def test_the_first_with_the_highest_validation_map_is_best():
    assert history.best(rows(0.1, 0.3, 0.3, 0.2))["epoch"] == 2
    assert history.best(rows(None, 0.1, None))["epoch"] == 2


def test_where_none_has_it_the_validation_loss_decides():
    assert history.best(rows(None, None, None, losses=[0.5, 0.4, 0.6]))["epoch"] == 2
    assert history.best([{"epoch": 1}, *rows(None, None, losses=[9.0, 9.0])[1:]])["epoch"] == 2, (
        "an epoch without a loss is no best"
    )


def test_a_history_without_an_epoch_has_no_best():
    with pytest.raises(ValueError):
        history.best([])


def test_columns_are_those_of_all_rows():
    assert history.columns(rows(None, 0.2)) == ["epoch", "val_loss", history.MONITOR]
