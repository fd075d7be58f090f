"""Access tokens, and the metadata server of a Google Cloud machine, which issues them."""

import re
import secrets
import time

from tests.fakes.storage import messages
from tests.fakes.storage.messages import Answer, Head

PROJECT = "posters-test"
EMAIL = f"trainer@{PROJECT}.iam.gserviceaccount.com"

_FLAVOR = {"metadata-flavor": "Google"}
_ROOT = "/computeMetadata/v1"
_ACCOUNT = f"{_ROOT}/instance/service-accounts"
_TEXTS = {
    f"{_ACCOUNT}/default/email": EMAIL,
    f"{_ROOT}/project/project-id": PROJECT,
    f"{_ROOT}/universe/universe-domain": "googleapis.com",
    "/": "computeMetadata/",
    f"{_ROOT}/": "instance/\nproject/\n",
}


class Tokens:
    """Issues tokens, and knows the valid ones."""

    def __init__(self) -> None:
        self._valid: set[str] = set()

    def issue(self) -> dict[str, object]:
        """Returns a new token, in the format of an OAuth server."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self._valid.add(token)
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def admit(self, authorization: str) -> bool:
        """Returns whether this header carries a valid token."""
        scheme, _, token = authorization.partition(" ")
        return scheme == "Bearer" and token in self._valid

    def revoke(self) -> None:
        """Invalidates all tokens issued so far."""
        self._valid.clear()


class Metadata:
    """A metadata server, which may be unavailable for a while."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._match = re.compile("")
        self._refused = 0
        self._until = 0.0

    def refuse(self, requests: int, seconds: float, match: str) -> None:
        """Refuses the next `requests` requests, and all within `seconds`, whose path matches the regular expression `match`."""
        self._match = re.compile(match)
        self._refused = requests
        self._until = time.monotonic() + seconds

    def answer(self, head: Head) -> Answer:
        """Answers a request."""
        if self._match.search(head.path) and (self._refused or time.monotonic() < self._until):
            self._refused = max(0, self._refused - 1)
            return messages.answer(503, b"not yet", _FLAVOR)
        if head.path in _TEXTS:
            return _text(200, _TEXTS[head.path])
        # By alias and by name: google-auth uses the name once it knows it.
        for account in ("default", EMAIL):
            if head.path == f"{_ACCOUNT}/{account}/token":
                return messages.answer(200, self._tokens.issue(), _FLAVOR)
            if head.path == f"{_ACCOUNT}/{account}/":
                about = {"aliases": ["default"], "email": EMAIL, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
                return messages.answer(200, about, _FLAVOR)
        return _text(404, "not found")


def _text(status: int, text: str) -> Answer:
    return messages.answer(status, text.encode(), _FLAVOR | {"content-type": "application/text"})
