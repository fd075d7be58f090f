"""Errors, exit codes, and text for error messages.

The exit codes are a contract: by them alone a supervisor, a Kubernetes podFailurePolicy or Vertex AI decides whether to start the
worker again.
"""

import errno
import re

EXIT_DONE = 0
EXIT_USER_ERROR = 2  # The user must change something: a restart would end the same way.
EXIT_LOST_PEER = 75  # EX_TEMPFAIL of sysexits.h: lost a peer or a service; restart me.
EXIT_STOPPED = 143  # 128 + SIGTERM: asked to stop, state saved; restart me elsewhere.

TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""Error numbers of a mounted bucket or a network file system that is temporarily away; they do not concern the file itself."""

URL_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?\S*")
_BRIEF_LENGTH = 200


class Ended(Exception):
    """The program ends for a known reason: one line on stderr, no traceback, and an exit code of the contract."""

    exit_code: int


class UserError(Ended):
    """Something that only the user can change: a flag, a path, a CSV, an image, a data set.

    Its text is one line: the thing and its value, what is wrong, and the remedy.
    """

    exit_code = EXIT_USER_ERROR


class LostPeer(Ended):
    """A process that this one depends on is gone, or another process has taken over the job; a restart finds out which."""

    exit_code = EXIT_LOST_PEER


class LostService(Ended):
    """A service that this process needs, such as Cloud Storage, did not answer in time; a restart tries again."""

    exit_code = EXIT_LOST_PEER


class Stopped(BaseException):
    """Somebody asked the process to stop, and it stopped cleanly.

    Like KeyboardInterrupt, not an `Exception`: a signal handler may raise it anywhere, and in some places TensorFlow swallows an
    `Exception`.
    """

    exit_code = EXIT_STOPPED


def brief(reason: object) -> str:
    """Returns another program's error as one line of at most 200 characters, without what must not be logged.

    Args:
      reason: an exception, or a text. User, password and query of every URL in it are left out. Of an exception with several
        arguments only the texts, numbers and exceptions are kept: another argument may be the body of a server's response.
    """
    if isinstance(reason, BaseException) and type(reason).__str__ is BaseException.__str__:
        text = " ".join(str(part) for part in reason.args if isinstance(part, str | int | Exception))
    else:
        text = str(reason)
    return without_secrets(" ".join(text.split()))[:_BRIEF_LENGTH] or type(reason).__name__


def without_secrets(text: str) -> str:
    """Returns a text without the user, password and query of the URLs in it."""
    return _QUERY.sub("", URL_USERINFO.sub("", text))
