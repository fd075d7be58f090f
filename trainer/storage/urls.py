"""URLs as messages show them: logs are read by many, and a URL may hold a password, or a signature that is as good as one."""

import re

from trainer.storage import objects

_WEB = re.compile(r"https?://", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?\S*")


def is_web(url: str) -> bool:
    """Returns whether a text begins as an http or https URL does."""
    return _WEB.match(url) is not None


def shown(url: str) -> str:
    """Returns a path or URL without what may be secret in it: user, password and query."""
    if "://" not in url or objects.is_uri(url):
        return url
    return _USERINFO.sub("", url).partition("?")[0]


def cleaned(text: str) -> str:
    """Returns a text of another program without what may be secret in the URLs that it cites."""
    return _QUERY.sub("", _USERINFO.sub("", text))
