"""The state of a job: what is saved when, which state a job resumes from, and what happens to one that is damaged."""

import types

import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from tests.support.states import BACKUP, BEST, LAST, data_of, job_in, model_of, saved
from trainer.errors import LostPeer, UserError
from trainer.job.history import MONITOR
from trainer.process import heartbeat
from trainer.training import checkpoints
from trainer.training.checkpoints import Progress


def cut_short(path):
    """Leaves a byte of a checkpoint's tensors."""
    data_of(path).write_bytes(data_of(path).read_bytes()[:1])


def test_a_new_job_has_no_steps_behind_it():
    new = Progress()
    assert (new.step, new.history, new.metrics) == (0, [], [])


def test_a_job_resumes_with_everything_that_it_had(tmp_path):
    one = job_in(tmp_path)
    one.end_epoch(3, 0.1 + 0.2)
    one.model.metrics[0].update_state([0.3, 0.4])
    one.model.metrics[1].update_state([[1.0, 0.0]], [[0.9, 0.8]])
    one.back_up(5)
    other = job_in(tmp_path)
    assert other.state.restore() == "backup/ckpt-5"
    assert other.state.progress.step == 5
    assert other.state.progress.history == [{"epoch": 1, "step": 3, MONITOR: 0.1 + 0.2}]
    for part in (*other.model.layers, other.model.optimizer):
        np.testing.assert_array_equal(part.kernel, np.full(part.kernel.shape, 5))
    # `fit` resets the running metrics at the start, so they come back only when asked for.
    assert [float(metric.result()) for metric in other.model.metrics] == [0.0, 0.0]
    other.state.restore_metrics()
    assert [float(metric.result()) for metric in other.model.metrics] == pytest.approx([0.35, 0.5])


def test_without_a_state_there_is_nothing_to_restore(tmp_path):
    assert job_in(tmp_path).state.restore() is None


def test_the_newest_two_backups_are_kept_and_one_state_of_an_epoch(tmp_path):
    job = job_in(tmp_path)
    for step in (1, 2, 3):
        job.back_up(step)
    for step, rating in ((4, 0.5), (8, 0.6), (12, 0.4)):
        job.end_epoch(step, rating)
    assert {kind: saved(tmp_path, kind) for kind in (BACKUP, LAST, BEST)} == {BACKUP: [2, 3], LAST: [12], BEST: [8]}


def test_a_step_is_saved_once_and_under_its_own_number(tmp_path):
    writes = []
    job = job_in(tmp_path, check=lambda: writes.append(1))
    job.back_up(7)
    job.state.back_up()
    assert len(writes) == 1
    # However often a job was interrupted before, the same step has the same content.
    reader = tf.train.load_checkpoint(str(tmp_path / BACKUP / "ckpt-7"))
    assert reader.get_tensor("save_counter/.ATTRIBUTES/VARIABLE_VALUE") == 7
    job.back_up(8)
    assert len(writes) == 2
    assert saved(tmp_path, BACKUP) == [7, 8]


def test_the_best_weights_are_saved_before_the_epoch_counts_as_done(tmp_path):
    there = []
    job = job_in(tmp_path, check=lambda: there.append((saved(tmp_path, BEST), saved(tmp_path, LAST))))
    job.end_epoch(4, 0.5)
    assert there == [([], []), ([4], [])]


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    def check():
        raise AssertionError("it writes")

    job = job_in(tmp_path, writes=False, check=check)
    job.back_up(3)
    job.end_epoch(4, 0.5)
    assert not list(tmp_path.rglob("*"))
    assert not job.state.writes
    # But it takes part in reading the metrics of all replicas.
    assert len(job.state.progress.metrics) == 1


def test_a_directory_that_belongs_to_another_process_is_not_written(tmp_path):
    def check():
        raise LostPeer("taken")

    job = job_in(tmp_path, check=check)
    for save in (job.state.back_up, lambda: job.end_epoch(4, 0.5)):
        with pytest.raises(LostPeer, match="taken"):
            save()
    assert not list(tmp_path.rglob("*.index"))


def test_a_save_creates_no_variable_which_would_wait_for_the_other_workers(tmp_path):
    job = job_in(tmp_path)
    created = []

    def creator(create, **options):
        created.append(options)
        return create(**options)

    with tf.variable_creator_scope(creator):
        tf.Variable(0)
        assert created, "the creator is asked"
        created.clear()
        job.back_up(3)
        job.end_epoch(4, 0.5)
    assert not created


def test_the_guard_hears_of_each_save(tmp_path, monkeypatch):
    beats = []
    monkeypatch.setattr(heartbeat, "beat", lambda sign=heartbeat.OTHER: beats.append((sign, saved(tmp_path, BACKUP))))
    job_in(tmp_path).back_up(3)
    assert beats == [(heartbeat.OTHER, [3])]


@pytest.mark.parametrize(
    ("backups", "epoch", "newest"), [((4,), 4, f"{LAST}/ckpt-4"), ((4, 6), 4, f"{BACKUP}/ckpt-6"), ((2,), 4, f"{LAST}/ckpt-4")]
)
def test_the_highest_step_is_restored_and_of_two_alike_the_one_with_the_epochs_end(tmp_path, backups, epoch, newest):
    job = job_in(tmp_path)
    for step in backups:
        job.back_up(step)
    job.end_epoch(epoch, 0.5)
    assert job_in(tmp_path).state.restore() == newest


def test_a_damaged_state_is_named_and_the_one_before_it_restored(tmp_path, caplog):
    job = job_in(tmp_path)
    job.back_up(2)
    job.back_up(10)
    cut_short(tmp_path / BACKUP / "ckpt-10")
    other = job_in(tmp_path)
    assert other.state.restore() == "backup/ckpt-2"
    assert other.state.progress.step == 2
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{tmp_path}/backup/ckpt-10 cannot be read (")
    assert caplog.messages[0].endswith("): the state before it is tried")


def test_a_job_without_a_readable_state_does_not_start_over(tmp_path):
    job = job_in(tmp_path)
    job.back_up(3)
    job.back_up(4)
    for step in (3, 4):
        cut_short(tmp_path / BACKUP / f"ckpt-{step}")
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/backup/ckpt-4, {tmp_path}/backup/ckpt-3 cannot be read, and there is no other state: "
    ):
        job_in(tmp_path).state.restore()


def test_a_state_of_another_network_is_not_taken_for_this_ones(tmp_path):
    job_in(tmp_path, 4).back_up(3)
    with pytest.raises(UserError, match=r"ckpt-3 cannot be read"):
        job_in(tmp_path, 5).state.restore()


def test_a_state_without_a_variable_that_the_network_has_is_not_enough(tmp_path):
    weights = tf.train.Checkpoint(layers=model_of().layers, progress=Progress())
    tf.train.CheckpointManager(weights, str(tmp_path / BACKUP), max_to_keep=1, checkpoint_name="ckpt").save(3)
    with pytest.raises(UserError, match=r"ckpt-3 cannot be read"):
        job_in(tmp_path).state.restore()


SILENT = "All 10 retry attempts failed. The last failure: HTTP response code 503 with body '' when reading gs://posters/job/backup"
PASSING = [
    tf.errors.PermissionDeniedError(None, None, "for now"),
    tf.errors.UnavailableError(None, None, "for now"),
    tf.errors.ResourceExhaustedError(None, None, "for now"),
    tf.errors.AbortedError(None, None, SILENT),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_state_that_cannot_be_reached_does_not_count_as_damaged(tmp_path, monkeypatch, caplog, error):
    job = job_in(tmp_path)
    job.back_up(2)
    job.end_epoch(3, 0.5)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(tf.train.Checkpoint, "restore", fail)
    monkeypatch.setattr(tf.train, "load_checkpoint", fail)
    for read in (
        job.state.restore,
        lambda: checkpoints.read_progress(epath.Path(tmp_path)),
        lambda: checkpoints.restore_best(job.model, epath.Path(tmp_path)),
    ):
        with pytest.raises(type(error)) as raised:
            read()
        assert raised.value is error
    assert not caplog.messages


class Replicas:
    """A strategy of several replicas, which run one after the other."""

    def __init__(self, count, monkeypatch):
        self.num_replicas_in_sync = count
        context = types.SimpleNamespace(replica_id_in_sync_group=0)
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
        self.context = context

    def run(self, function, args=()):
        for replica in range(self.num_replicas_in_sync):
            self.context.replica_id_in_sync_group = replica
            function(*args)


class Mirrored:
    """A variable of two values, which remembers what each replica sets it to."""

    shape = tf.TensorShape([2])

    def __init__(self):
        self.values = []

    def assign(self, value):
        self.values.append(value.numpy().tolist())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]),
        # The sums go to the first: a metric adds up its values over all replicas.
        ([[1, 2], [3, 4]], [[4, 6], [0, 0], [0, 0]]),
        ([[1, 2]], [[1, 2], [0, 0], [0, 0]]),
    ],
)
def test_running_metrics_go_to_the_replicas_they_came_from_or_as_a_sum_to_the_first(monkeypatch, rows, expected):
    monkeypatch.setattr(tf, "function", lambda function: function)
    variable = Mirrored()
    metric = types.SimpleNamespace(variables=[variable])
    model = types.SimpleNamespace(metrics=[metric], distribute_strategy=Replicas(3, monkeypatch))
    checkpoints._RunningMetrics(model).write(rows)
    assert variable.values == expected


@pytest.mark.parametrize("kind", [BACKUP, LAST])
def test_a_job_is_begun_once_it_has_any_state(tmp_path, kind):
    path = epath.Path(tmp_path)
    job = job_in(tmp_path)
    assert not checkpoints.is_begun(path)
    if kind == BACKUP:
        job.back_up(3)
    else:
        job.end_epoch(3, 0.5)
    assert checkpoints.is_begun(path)


def test_progress_is_that_of_the_last_finished_epoch(tmp_path):
    path = epath.Path(tmp_path)
    job = job_in(tmp_path)
    job.back_up(2)
    assert checkpoints.read_progress(path).step == 0
    job.end_epoch(4, 0.5)
    job.back_up(6)
    found = checkpoints.read_progress(path)
    assert (found.step, found.history) == (4, [{"epoch": 1, "step": 4, MONITOR: 0.5}])


def test_progress_in_a_damaged_state_is_none(tmp_path, caplog):
    job_in(tmp_path).end_epoch(4, 0.5)
    cut_short(tmp_path / LAST / "ckpt-4")
    found = checkpoints.read_progress(epath.Path(tmp_path))
    assert (found.step, found.history) == (0, [])
    assert caplog.messages[0].startswith(f"{tmp_path}/checkpoints/last/ckpt-4 cannot be read: ")


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    job = job_in(tmp_path)
    job.end_epoch(4, 0.6)
    job.end_epoch(8, 0.5)
    model = model_of()
    checkpoints.restore_best(model, epath.Path(tmp_path))
    np.testing.assert_array_equal(model.layers[0].kernel, [4, 4, 4, 4])


def test_best_weights_that_are_missing_or_damaged_are_named_with_the_remedy(tmp_path):
    path = epath.Path(tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path}/checkpoints/best has no checkpoint: restore a copy, or train again"):
        checkpoints.restore_best(model_of(), path)
    job_in(tmp_path).end_epoch(4, 0.5)
    with pytest.raises(UserError, match=r"ckpt-4 cannot be read \(.*\): restore a copy, or train again with --fresh"):
        checkpoints.restore_best(model_of(5), path)


def test_weights_of_too_few_layers_are_not_the_best_ones(tmp_path):
    job_in(tmp_path).end_epoch(4, 0.5)
    with pytest.raises(UserError, match=r"ckpt-4 cannot be read"):
        checkpoints.restore_best(model_of(4, 3), epath.Path(tmp_path))


def test_deleting_the_backups_leaves_the_epochs_states(tmp_path):
    job = job_in(tmp_path)
    job.back_up(3)
    job.end_epoch(4, 0.5)
    checkpoints.delete_backups(epath.Path(tmp_path))
    assert not (tmp_path / BACKUP).exists()
    assert (saved(tmp_path, LAST), saved(tmp_path, BEST)) == ([4], [4])
