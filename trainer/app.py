"""How every command of the package starts and ends: absl flags in, an exit code of the contract out."""

import errno
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from trainer.errors import Ended, Stopped, UserError


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, runs `main` and exits with its code; never returns.

    absl exits with 1 on a bad flag, which a supervisor takes for a crash worth a restart; here that is
    `EXIT_USER_ERROR`.

    Args:
      main: takes what is left of the command line after the flags, without the program's name; returns an exit code, or
        None for 0.
        An `Ended` that it raises, a full disk or a path that may not be written ends in one line on stderr.
    """
    app.run(lambda argv: _guarded(main, argv[1:]), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(_report("error", UserError(f"{error} (--help lists the flags)")))


def _guarded(main: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    try:
        return main(arguments)
    except Ended as end:
        return _report("error", end)
    except Stopped as end:
        return _report("stopped", end)
    except KeyboardInterrupt:
        return _report("stopped", Stopped("interrupted; nothing is half-written, and the same command begins again"))
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _report("error", UserError(f"{where}{error.strerror}: {_REMEDIES[error.errno]}"))


_REMEDIES = {
    errno.ENOSPC: "free some space or choose another place, then run the same command again",
    errno.EDQUOT: "free some of your quota or choose another place, then run the same command again",
    errno.EEXIST: "choose another place",
    errno.ENOTDIR: "choose another place",
    errno.EISDIR: "name a file, not a folder",
    errno.EACCES: "choose a place that you may read and write",
    errno.EROFS: "choose a place that can be written",
}


def _report(kind: str, end: Ended | Stopped) -> int:
    line = " ".join(str(end).split())
    print(f"{kind}: {line}", file=sys.stderr)
    return end.exit_code
