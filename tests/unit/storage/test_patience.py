"""How patient the two clients of Cloud Storage are."""

import pytest

from trainer.errors import UserError
from trainer.storage import patience

LIMITS = {
    "GCS_REQUEST_IDLE_TIMEOUT_SECS": "20",
    "GCS_RETRY_CONFIG_MAX_RETRIES": "3",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "500000",
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "1000000",
}


@pytest.fixture
def environment(monkeypatch):
    """An environment without any setting."""
    for name in patience._DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_both_clients_are_equally_patient(environment):
    for name, value in LIMITS.items():
        environment.setenv(name, value)
    patience.set_defaults()
    assert patience.patience() == patience.Patience(idle=20, first_pause=0.5, longest_pause=1, deadline=0.5 + 1 + 1 + 3 * 20)


def test_pauses_double_until_the_longest(environment):
    for name, value in LIMITS.items():
        environment.setenv(name, value)
    environment.setenv("GCS_RETRY_CONFIG_MAX_RETRIES", "5")
    environment.setenv("GCS_RETRY_CONFIG_MAX_DELAY_TIME_US", "100000000")
    assert patience.patience().deadline == 0.5 + 1 + 2 + 4 + 8 + 5 * 20


def test_a_user_who_sets_nothing_gets_a_minute_of_pauses(environment):
    environment.setattr(patience.os, "environ", {"GCS_RETRY_CONFIG_MAX_RETRIES": "6"})
    patience.set_defaults()
    assert patience.os.environ["GCS_RETRY_CONFIG_MAX_RETRIES"] == "6", "what the user has set stays"
    assert patience.os.environ["GCS_STAT_CACHE_MAX_AGE"] == "0", "other processes change the files"
    assert patience.os.environ["GCS_READ_CACHE_BLOCK_SIZE_MB"] == "16"
    assert patience.patience() == patience.Patience(idle=15, first_pause=0.5, longest_pause=32, deadline=31.5 + 6 * 15)
    patience.os.environ["GCS_RETRY_CONFIG_MAX_RETRIES"] = patience._DEFAULTS["GCS_RETRY_CONFIG_MAX_RETRIES"]
    assert patience.patience().deadline == 63.5 + 7 * 15


def test_a_setting_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setenv("GCS_RETRY_CONFIG_MAX_RETRIES", "many")
    with pytest.raises(UserError, match=r"variable GCS_RETRY_CONFIG_MAX_RETRIES must be a number, got 'many'"):
        patience.patience()
