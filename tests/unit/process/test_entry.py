"""From flags to an exit code and one line, as every command does it."""

import errno
import os
import signal
import subprocess
import sys
import types

import pytest
from absl import flags

from tests.support.commands import REPOSITORY
from trainer.errors import LostPeer, LostService, Stopped, UserError
from trainer.process import entry


@pytest.fixture
def values():
    """The flags of a command."""
    values = flags.FlagValues()
    flags.DEFINE_integer("epochs", 3, "Number of epochs.", flag_values=values)
    return values


@pytest.fixture
def start(monkeypatch, values):
    """Runs a command with words of a command line; returns its exit code."""

    def app_run(main, *, flags_parser):
        # What absl.app.run does with both, without its global flags and handlers.
        sys.exit(main(flags_parser(["command", *words])))

    words: list[str] = []
    monkeypatch.setattr(entry, "app", types.SimpleNamespace(run=app_run))
    monkeypatch.setattr(entry, "flags", types.SimpleNamespace(FLAGS=values, Error=flags.Error))
    monkeypatch.setattr(entry, "_at_once", False)

    def start(main, *given):
        words[:] = given
        with pytest.raises(SystemExit) as end:
            entry.run(main)
        return end.value.code or 0

    return start


def ending(error):
    def main(arguments):
        raise error

    return main


# Flags.


def test_a_command_takes_what_follows_the_flags_and_gives_the_exit_code(start, values):
    def main(arguments):
        return values.epochs + len(arguments)

    assert start(main, "--epochs=70", "a.jpg", "b.jpg") == 72
    assert start(lambda arguments: None) == 0


@pytest.mark.parametrize("word", ["--epoch=7", "--epochs=many"])
def test_a_wrong_flag_is_the_users_to_correct(start, capsys, word):
    assert start(lambda arguments: pytest.fail("ran"), word) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.endswith(" (--help lists the flags)\n")
    assert line.count("\n") == 1


def test_help_is_not_an_error(start, monkeypatch):
    def helped(argv):
        sys.exit(1)  # As absl does after it has shown the help.

    monkeypatch.setattr(entry.flags, "FLAGS", helped)
    assert start(lambda arguments: pytest.fail("ran"), "--help") == 0


# Errors.


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--epochs must be\n at least 1"), 2, "error: --epochs must be at least 1"),
        (LostPeer("worker 1 is lost"), 75, "error: worker 1 is lost"),
        (LostService("no answer"), 75, "error: no answer"),
        (Stopped("asked to stop"), 143, "stopped: asked to stop"),
        (KeyboardInterrupt(), 143, "stopped: interrupted; nothing is half-written, and the same command starts again"),
    ],
)
def test_a_known_end_is_one_line_and_a_code_of_the_contract(start, capsys, error, code, line):
    assert start(ending(error)) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_file_system_that_does_not_answer_is_a_reason_to_start_again(start, capsys, number):
    assert start(ending(OSError(number, "gone", "/gcs/films"))) == 75
    assert capsys.readouterr().err == "error: /gcs/films: gone: the file system did not answer; run the same command again\n"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space or choose another path, then run the same command again"),
        (errno.EDQUOT, "free some of your quota or choose another path, then run the same command again"),
        (errno.EFBIG, "choose a path whose file system takes larger files"),
        (errno.ENOENT, "choose another path"),
        (errno.EEXIST, "choose another path"),
        (errno.ENOTDIR, "choose another path"),
        (errno.ENAMETOOLONG, "choose another path"),
        (errno.ELOOP, "choose another path"),
        (errno.EISDIR, "name a file, not a folder"),
        (errno.EACCES, "choose a path that you may read and write"),
        (errno.EPERM, "choose a path that you may read and write"),
        (errno.EROFS, "choose a path that can be written"),
    ],
)
def test_a_path_that_cannot_be_used_is_the_users_to_change(start, capsys, number, remedy):
    assert start(ending(OSError(number, "refused", "/films"))) == 2
    assert capsys.readouterr().err == f"error: /films: refused: {remedy}\n"


def test_an_error_without_a_path_names_none(start, capsys):
    assert start(ending(OSError(errno.ENOSPC, "disk full"))) == 2
    assert capsys.readouterr().err.startswith("error: disk full: free some space")


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "bad file"), RuntimeError("a fault"), OSError("no number")])
def test_any_other_error_is_a_crash_that_keeps_its_traceback(start, error):
    with pytest.raises(type(error)) as caught:
        start(ending(error))
    assert caught.value is error


@pytest.mark.parametrize(
    ("meaning", "code", "line"),
    [
        (LostService("gs://films: no answer"), 75, "error: gs://films: no answer"),
        (UserError("gs://films: no bucket"), 2, "error: gs://films: no bucket"),
        (
            FileNotFoundError(2, "no such object", "gs://films/a"),
            2,
            "error: [Errno 2] no such object: 'gs://films/a': restore it, or choose another path",
        ),
    ],
)
def test_what_tensorflow_says_about_cloud_storage_is_explained(start, capsys, monkeypatch, meaning, code, line):
    error = RuntimeError("HTTP response code …")
    monkeypatch.setattr(entry.failures, "of_tensorflow", lambda seen: meaning if seen is error else None)
    assert start(ending(error)) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_reader_that_closes_the_pipe_ends_the_command_as_in_a_shell(start, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        # What print keeps in its buffer is written at the end.
        assert start(lambda arguments: print("Drama")) == 128 + signal.SIGPIPE
        print("Comedy", flush=True)  # Goes nowhere, and raises nothing.
    assert capfd.readouterr().err == ""


# Leaving at once.


@pytest.fixture
def leave(start, monkeypatch, tmp_path):
    """Runs a command; returns its exit code, and how it left at once: with which code, and what it had written by then."""
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    left: list[tuple[int, str, str]] = []

    def exit_at_once(code):
        left.append((code, stdout.read_text(), stderr.read_text()))
        raise SystemExit(code)

    def leave(main):
        with stdout.open("w") as out, stderr.open("w") as err, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(entry, "os", types.SimpleNamespace(**vars(os) | {"_exit": exit_at_once}))
            return start(main), left

    return leave


def test_a_process_that_leaves_at_once_runs_no_exit_handlers_and_loses_no_output(leave):
    def main(arguments):
        entry.leave_at_once()
        print("Drama")

    assert leave(main) == (0, [(0, "Drama\n", "")])


def test_a_known_end_leaves_at_once_with_its_code(leave):
    def main(arguments):
        entry.leave_at_once()
        print("Drama")
        raise LostPeer("worker 1 is lost")

    assert leave(main) == (75, [(75, "Drama\n", "error: worker 1 is lost\n")])


def test_a_crash_that_leaves_at_once_shows_its_traceback(leave):
    def main(arguments):
        entry.leave_at_once()
        raise RuntimeError("a fault")

    _, ((code, _, err),) = leave(main)
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: a fault\n")


def test_without_a_cluster_a_process_ends_in_the_ordinary_way(leave):
    assert leave(lambda arguments: 3) == (3, [])
    program = "import atexit; from trainer.process import entry; atexit.register(print, 'bye'); entry.run(lambda arguments: 3)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "bye\n")
