"""The errors and exit codes that whatever restarts a worker acts on.

The codes are a contract: a supervisor, a Kubernetes podFailurePolicy or Vertex AI decides by them alone whether to
start the worker again.
"""

import errno

EXIT_DONE = 0
EXIT_USER_ERROR = 2  # The user must change something: a restart would end the same way.
EXIT_LOST_PEER = 75  # EX_TEMPFAIL of sysexits.h: lost a peer or a service; restart me.
EXIT_STOPPED = 143  # 128 + SIGTERM: asked to stop, state saved; restart me elsewhere.

TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""What a mounted bucket or a network's file system says while it is away: nothing about the file itself."""


class Ended(Exception):
    """An end that its cause explains: one line on stderr, no traceback, and an exit code of the contract."""

    exit_code: int


class UserError(Ended):
    """What only the user can mend: a flag, a path, a CSV, a picture, a data set.

    Its text is one line that names the thing, the value and the remedy.
    """

    exit_code = EXIT_USER_ERROR


class LostPeer(Ended):
    """Another process that this one needs, or that has taken its place, decides; a restart finds out."""

    exit_code = EXIT_LOST_PEER


class LostService(Ended):
    """A service that this process needs, such as Cloud Storage, did not answer in time; a restart tries again."""

    exit_code = EXIT_LOST_PEER


class Stopped(BaseException):
    """Someone asked the process to stop, and it did in good order.

    Like KeyboardInterrupt it is no `Exception`: a signal handler raises it anywhere, and TensorFlow goes on after an `Exception` in
    some places.
    """

    exit_code = EXIT_STOPPED
