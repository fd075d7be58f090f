"""Access tokens, and the metadata server of a machine in Google's cloud that hands them out."""

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
    """Hands out tokens, and knows those that are good."""

    def __init__(self) -> None:
        self._good: set[str] = set()

    def issue(self) -> dict[str, object]:
        """A new token, as an OAuth server sends it."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self._good.add(token)
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def admit(self, authorization: str) -> bool:
        """Whether a request with this header carries a good token."""
        scheme, _, token = authorization.partition(" ")
        return scheme == "Bearer" and token in self._good

    def revoke(self) -> None:
        """Makes all tokens bad that were issued up to now."""
        self._good.clear()


class Metadata:
    """Answers as a metadata server does, or does not answer yet."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._match = re.compile("")
        self._refused = 0
        self._until = 0.0

    def refuse(self, requests: int, seconds: float, match: str) -> None:
        """Answers that many requests, and all for that long, with an error: those whose path matches a regular expression."""
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
        # Both by its alias and by its name, as google-auth asks once it knows that.
        for account in ("default", EMAIL):
            if head.path == f"{_ACCOUNT}/{account}/token":
                return messages.answer(200, self._tokens.issue(), _FLAVOR)
            if head.path == f"{_ACCOUNT}/{account}/":
                about = {"aliases": ["default"], "email": EMAIL, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
                return messages.answer(200, about, _FLAVOR)
        return _text(404, "not found")


def _text(status: int, text: str) -> Answer:
    return messages.answer(status, text.encode(), _FLAVOR | {"content-type": "application/text"})
