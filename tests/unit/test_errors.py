"""Text for error messages."""

import pytest

from trainer import errors
from trainer.errors import UserError, brief


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.UserError, 2), (errors.LostPeer, 75), (errors.LostService, 75), (errors.Stopped, 143)],
)
def test_an_exit_code_is_a_contract_with_whatever_restarts_the_worker(error: type[errors.Ended | errors.Stopped], code: int):
    assert error("why").exit_code == code
    assert errors.EXIT_DONE == 0


def test_a_request_to_stop_passes_code_that_swallows_exceptions():
    assert not issubclass(errors.Stopped, Exception)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("two  of\n3 bytes", "two of 3 bytes"),
        (ValueError("bad value"), "bad value"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "no such file", "/a"), "[Errno 2] no such file: '/a'"),
        (RuntimeError("no token", {"access_token": "pa55"}, b"pa55", UserError("why")), "no token why"),
        (OSError("no route to https://me:pa55@host/a?signature=pa55 (/a?pa55"), "no route to https://host/a (/a"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_brief_reason_is_one_line_without_secrets(reason: object, said: str):
    assert brief(reason) == said


def test_secrets_are_cut_out_of_every_url_in_a_text():
    text = "from https://me:pa55@host:80/a@b?token=pa55&x to gs://bucket/c?pa55 and on"
    assert errors.without_secrets(text) == "from https://host:80/a@b to gs://bucket/c and on"
