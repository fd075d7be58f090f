"""How every command of the package starts and ends: from absl flags to an exit code of `trainer.errors`."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags

from trainer.errors import TRANSIENT_ERRNOS, Ended, LostPeer, Stopped, UserError
from trainer.process import log
from trainer.storage import failures


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, runs `main` and exits with its code; never returns.

    absl exits with 1 on a bad flag and on --help, which a supervisor takes for a crash and restarts; here the codes are 2 and 0.

    Args:
      main: the command. It takes the rest of the command line after the flags, without the program's name, and returns an exit
        code, or None for 0. An `Ended` that it raises, a full disk and a path that may not be used become one line on stderr.
    """
    app.run(lambda argv: _guarded(main, argv[1:]), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(_end("error", UserError(f"{error} (--help lists the flags)")))
    except SystemExit:  # absl has shown the help.
        sys.exit(0)


def leave_at_once() -> None:
    """Makes the process end without the exit handlers of its libraries: TensorFlow's would wait for workers that may be gone."""
    global _at_once
    _at_once = True


_at_once = False


def _guarded(main: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    try:
        code = _explained(main, arguments)
    except Exception:
        if not _at_once:
            raise
        traceback.print_exc()
        code = 1
    if _at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    return code


def _explained(main: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    try:
        code = main(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has closed the pipe, as head does: the rest of the output goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Ended as end:
        return _end("error", end)
    except Stopped as end:
        return _end("stopped", end)
    except KeyboardInterrupt:
        return _end("stopped", Stopped("interrupted; nothing is half-written, and the same command starts again"))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in TRANSIENT_ERRNOS:
            return _end("error", LostPeer(f"{where}{error.strerror}: the file system did not answer; run the same command again"))
        if error.errno in _REMEDIES:
            return _end("error", UserError(f"{where}{error.strerror}: {_REMEDIES[error.errno]}"))
        raise
    except Exception as error:
        told = failures.of_tensorflow(error)
        if told is None:
            raise
        return _end("error", told if isinstance(told, Ended) else UserError(f"{told}: restore it, or choose another path"))


_REMEDIES = {
    errno.ENOSPC: "free some space or choose another path, then run the same command again",
    errno.EDQUOT: "free some of your quota or choose another path, then run the same command again",
    errno.EFBIG: "choose a path whose file system takes larger files",
    errno.ENOENT: "choose another path",
    errno.EEXIST: "choose another path",
    errno.ENOTDIR: "choose another path",
    errno.ENAMETOOLONG: "choose another path",
    errno.ELOOP: "choose another path",
    errno.EISDIR: "name a file, not a folder",
    errno.EACCES: "choose a path that you may read and write",
    errno.EPERM: "choose a path that you may read and write",
    errno.EROFS: "choose a path that can be written",
}


def _end(kind: str, end: Ended | Stopped) -> int:
    log.last_line(kind, " ".join(str(end).split()))
    return end.exit_code
