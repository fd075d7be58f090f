"""Kinds of URLs, and URLs without their secrets: many people read logs, and a URL may contain a password or a signature."""

import re

from trainer.storage import objects

_WEB = re.compile(r"https?://", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?\S*")


def is_web(url: str) -> bool:
    """Returns whether a text begins with http:// or https://."""
    return _WEB.match(url) is not None


def is_other_service(value: str) -> bool:
    """Returns whether a value is a URL that `files` cannot read: neither a path on a disk nor gs://…"""
    return "://" in value and not objects.is_uri(value)


def shown(url: str) -> str:
    """Returns a path or URL without the parts that may be secret: user, password and query."""
    if not is_other_service(url):
        return url
    return _USERINFO.sub("", url).partition("?")[0]


def cleaned(text: str) -> str:
    """Returns another program's text, with the parts that may be secret removed from all URLs in it."""
    return _QUERY.sub("", _USERINFO.sub("", text))
