"""Text for error messages."""

import pytest

from trainer.errors import UserError, brief


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
