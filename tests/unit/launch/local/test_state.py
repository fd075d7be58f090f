"""The recorded state of local jobs: what other terminals read of jobs that run, have ended, or were lost."""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.local import state
from launch.local.processes import WorkerState
from launch.outcome import JobFailed
from tests.support import descriptors
from trainer.errors import Stopped, UserError

STARTING = WorkerState(word="waiting", pid=None, exit_code=None, crashes=0)
RUNNING = WorkerState(word="running", pid=7, exit_code=None, crashes=1)
NOTE = b"\nlaunch: the log is too long: the rest is not recorded\n"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "poster-trainer"


def ended_job(root, name, *, started=1.0, changed=None, word="done", **fields):
    """Records a job as an earlier launcher has left it."""
    folder = root / name
    folder.mkdir(parents=True)
    record = {"name": name, "pid": 1, "machine": "m", "started": started, "word": word, "reason": "", "workers": []} | fields
    (folder / "state.json").write_text(json.dumps(record))
    if changed is not None:
        os.utime(folder / "state.json", (changed, changed))


@contextlib.contextmanager
def recorded(workers=1) -> Iterator[state.Recorder]:
    """Records the job film-1."""
    with state.recording("film-1", workers) as recorder:
        assert recorder is not None
        yield recorder


def names():
    return [record.name for record in state.read_all()]


def test_a_job_is_recorded_from_its_start_to_its_end():
    with recorded(workers=2) as recorder:
        record = state.read("film-1")
        assert (record.word, record.reason, record.pid) == ("running", "", os.getpid())
        assert (record.machine, record.workers) == (state.machine(), (STARTING, STARTING))
        assert state.is_running("film-1")
        recorder.on_change([RUNNING, STARTING])
        assert state.read("film-1").workers == (RUNNING, STARTING)
        recorder.on_output(b"one\n")
        recorder.on_output(b"two\n")
        assert state.log_path("film-1").read_bytes() == b"one\ntwo\n"
    assert not state.is_running("film-1")
    assert (state.read("film-1").word, state.read("film-1").reason) == ("done", "")


@pytest.mark.parametrize(
    ("end", "word", "reason"),
    [
        (Stopped("as requested"), "stopped", "as requested"),
        (UserError("worker 0 needs\na change"), "failed", "worker 0 needs a change"),
        (JobFailed("worker 0 crashed", 137), "failed", "worker 0 crashed"),
        (ZeroDivisionError("x"), "failed", "the launcher failed"),
        (KeyboardInterrupt(), "failed", "the launcher failed"),
    ],
)
def test_a_record_says_how_the_job_ended(end, word, reason):
    with pytest.raises(type(end)), state.recording("film-1", 1):
        raise end
    assert (state.read("film-1").word, state.read("film-1").reason) == (word, reason)


def test_a_recorder_leaves_no_file_open():
    before = descriptors.count()
    with state.recording("film-1", 1):
        pass
    assert descriptors.count() == before


def test_only_the_user_can_read_a_record(root):
    with state.recording("film-1", 1):
        assert stat.S_IMODE((root / "film-1").stat().st_mode) == 0o700


def test_a_job_runs_without_a_record_if_none_can_be_written(root, capsys):
    root.write_text("not a folder")
    with state.recording("film-1", 1) as recorder:
        assert recorder is None
    said = capsys.readouterr().err
    assert said == f"launch: {root}/film-1 cannot be written (Not a directory): other terminals cannot show or cancel this job\n"


def test_a_record_that_could_only_be_begun_is_deleted(root, monkeypatch, capsys):
    delete = shutil.rmtree

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def slow_delete(path, **options):  # Somebody else has deleted it meanwhile.
        delete(path)
        delete(path, **options)

    monkeypatch.setattr(state.fcntl, "flock", fail)
    monkeypatch.setattr(state.shutil, "rmtree", slow_delete)
    with state.recording("film-1", 1) as recorder:
        assert recorder is None
    assert f"{root} cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_without_a_state_folder_the_records_are_below_the_home_folder(monkeypatch, tmp_path, capsys, is_known):
    monkeypatch.setenv("XDG_STATE_HOME", "relative/path")  # The specification says to ignore it.

    def home():
        if is_known:
            return tmp_path / "home"
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(state.Path, "home", home)
    with state.recording("film-1", 1):
        assert names() == (["film-1"] if is_known else [])
    assert (tmp_path / "home/.local/state/poster-trainer/film-1/log").exists() == is_known
    assert ("~ cannot be written (Could not determine home directory.)" in capsys.readouterr().err) == (not is_known)


def test_a_log_that_is_too_long_says_so_once(monkeypatch):
    monkeypatch.setattr(state, "_MAX_LOG", 10)
    with recorded() as recorder:
        recorder.on_output(b"123456")
        recorder.on_output(b"7890")
        assert state.log_path("film-1").read_bytes() == b"1234567890"
        recorder.on_output(b"1")
        recorder.on_output(b"2")
        assert state.log_path("film-1").read_bytes() == b"1234567890" + NOTE


def test_the_line_that_makes_a_log_too_long_is_cut(monkeypatch):
    monkeypatch.setattr(state, "_MAX_LOG", 10)
    with recorded() as recorder:
        recorder.on_output(b"1234")
        recorder.on_output(b"5678901")
        recorder.on_output(b"23")
        assert state.log_path("film-1").read_bytes() == b"1234567890" + NOTE


def test_a_log_may_have_256_mib():
    assert state._MAX_LOG == 256 * 1024 * 1024


def test_a_full_disk_costs_the_log_but_not_the_end_of_the_job(monkeypatch):
    write = Path.write_text

    def write_if_there_is_room(path, text):
        if state.log_path("film-1").stat().st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    with recorded() as recorder:
        recorder.on_output(b"one\n")
        monkeypatch.setattr(Path, "write_text", write_if_there_is_room)
        recorder.on_change([RUNNING])
        assert state.read("film-1").workers == (STARTING,)
    record = state.read("film-1")
    assert (record.word, record.workers) == ("done", (RUNNING,))
    assert state.log_path("film-1").read_bytes() == b""


def test_a_log_that_cannot_be_written_does_not_end_the_job(monkeypatch):
    with recorded() as recorder:
        log = recorder._log
        recorder._log = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)
        recorder.on_output(b"one\n")
        log.close()
    assert state.read("film-1").word == "done"


def test_a_job_whose_launcher_was_killed_is_lost(root):
    workers = [{"word": "running", "pid": 7, "exit_code": None, "crashes": 2}]
    ended_job(root, "film-1", word="running", workers=workers)
    record = state.read("film-1")
    assert (record.word, record.reason) == ("lost", "its launcher was killed")
    assert record.workers == (WorkerState(word="ended", pid=None, exit_code=None, crashes=2),)


def test_a_job_that_ended_is_as_its_launcher_wrote_it(root):
    workers = [{"word": "ended", "pid": None, "exit_code": 7, "crashes": 2}]
    ended_job(root, "film-1", word="failed", reason="worker 0 crashed", workers=workers)
    record = state.read("film-1")
    assert (record.word, record.reason, record.workers[0].exit_code) == ("failed", "worker 0 crashed", 7)


def test_jobs_are_listed_with_the_newest_last(root):
    for name, started in (("a", 2.0), ("b", 3.0), ("c", 1.0)):
        ended_job(root, name, started=started)
    assert names() == ["c", "a", "b"]


def test_without_a_record_no_job_is_listed():
    assert names() == []
    with pytest.raises(UserError, match="job 'film-1' is not recorded on this machine: choose one of python -m launch list"):
        state.read("film-1")
    assert not state.is_running("film-1")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"workers": []}',
        '{"name": "old", "pid": 1}',
        '{"name": "old", "pid": 1, "machine": "", "started": "soon", "word": "done", "reason": "", "workers": []}',
        '{"name": "old", "pid": 1, "machine": "", "started": 1, "word": "done", "reason": "", "workers": [], "new": 1}',
        '{"name": "old", "pid": 1, "machine": "", "started": 1, "word": "done", "reason": "", "workers": [{"word": "done"}]}',
        None,
    ],
)
def test_a_record_that_cannot_be_read_hides_no_other(root, text):
    ended_job(root, "a")
    (root / "old").mkdir()
    if text is not None:
        (root / "old/state.json").write_text(text)
    (root / "file").write_text("")
    assert names() == ["a"]


def test_the_last_twenty_ended_jobs_are_kept(root):
    """The last to end, in whatever order they began; and a job that runs is kept and not counted."""
    with state.recording("long", 1):
        os.utime(root / "long/state.json", (0, 0))
        for number in range(25):
            ended_job(root, f"job-{number:02d}", started=100.0 - number, changed=number)
        with state.recording("new", 1):
            assert sorted(names()) == [*(f"job-{number:02d}" for number in range(5, 25)), "long", "new"]


@pytest.mark.parametrize("count", [3, 20])
def test_up_to_twenty_ended_jobs_are_all_kept(root, count):
    for number in range(count):
        ended_job(root, f"job-{number:02d}")
    with state.recording("new", 1):
        assert len(names()) == count + 1


def test_an_old_record_may_be_deleted_by_two_launchers_at_once(root, monkeypatch):
    for number in range(22):
        ended_job(root, f"job-{number:02d}", changed=number)
    delete = shutil.rmtree

    def slow_delete(path, **options):
        delete(path)
        delete(path, **options)

    monkeypatch.setattr(state.shutil, "rmtree", slow_delete)
    with state.recording("new", 1):
        assert not {"job-00", "job-01"} & set(names())
        assert "new" in names()


def test_a_record_that_is_deleted_meanwhile_counts_as_the_oldest(root, monkeypatch):
    for number in range(21):
        ended_job(root, f"job-{number:02d}", changed=number + 1)
    read_all = state.read_all

    def read_all_before_another_deletes():
        found = read_all()
        (root / "job-20/state.json").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(state, "read_all", read_all_before_another_deletes)
    with state.recording("new", 1):
        assert (root / "job-00").exists()
        assert not (root / "job-20").exists()


def test_a_machine_is_named_by_its_host_its_boot_and_its_container(monkeypatch):
    monkeypatch.setattr(state.socket, "gethostname", lambda: "desk")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert state.machine() == f"desk {boot} {Path('/proc/self/ns/pid').readlink()}"


def test_a_machine_without_proc_is_named_by_its_host(monkeypatch):
    def fail(_):
        raise FileNotFoundError

    monkeypatch.setattr(state.socket, "gethostname", lambda: "desk")
    monkeypatch.setattr(state.Path, "read_text", fail)
    assert state.machine() == "desk"
