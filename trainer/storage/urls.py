"""Kinds of URLs, and URLs without their secrets: many people read logs, and a URL may contain a password or a signature."""

import re

from trainer.errors import URL_USERINFO
from trainer.storage import objects

WEB = re.compile(r"https?://", re.IGNORECASE)
"""Found at the beginning of a URL of the web."""


def is_web(url: str) -> bool:
    """Returns whether a text begins with http:// or https://."""
    return WEB.match(url) is not None


def is_other_service(value: str) -> bool:
    """Returns whether a value is a URL that `files` cannot read: neither a path on a disk nor gs://…"""
    return "://" in value and not objects.is_uri(value)


def shown(url: str) -> str:
    """Returns a path or URL without the parts that may be secret: user, password and query."""
    if not is_other_service(url):
        return url
    return URL_USERINFO.sub("", url).partition("?")[0]
