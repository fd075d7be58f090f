"""A storage that loses a checkpoint, or does not show it, makes no job lose its state."""

import types
from pathlib import Path

import pytest
import tensorflow as tf
from etils import epath

from tests.support.states import BACKUP, data_of, job_in, model_of, saved
from trainer.errors import LostService
from trainer.storage import files
from trainer.training import checkpoints
from trainer.training.checkpoints import TrainingState


def lose_bytes(path):
    data_of(path).write_bytes(data_of(path).read_bytes()[:10])


def garble_index(path):
    index = Path(f"{path}.index")
    index.write_bytes(b"\xff" * index.stat().st_size)


def empty_index(path):
    Path(f"{path}.index").write_bytes(b"")


DAMAGES = {
    "data cut short": lose_bytes,
    "data lost": lambda path: data_of(path).unlink(),
    "index garbled": garble_index,
    "index empty": empty_index,
    "index lost": lambda path: Path(f"{path}.index").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_state_that_does_not_arrive_whole_replaces_no_older_one(tmp_path, monkeypatch, damage):
    job = job_in(tmp_path)
    for step in (3, 4):
        job.back_up(step)
    check = checkpoints._check_arrived

    def check_after_damage(path):
        damage(path)
        check(path)

    monkeypatch.setattr(checkpoints, "_check_arrived", check_after_damage)
    with pytest.raises(LostService, match=rf"^{tmp_path}/backup/ckpt-5 was written and did not arrive whole \(.+\): check the"):
        job.back_up(5)
    monkeypatch.undo()
    assert tf.train.latest_checkpoint(str(tmp_path / BACKUP)).endswith("ckpt-4")
    assert {3, 4} <= set(saved(tmp_path, BACKUP))
    assert job_in(tmp_path).state.restore() == "backup/ckpt-4"


def test_an_index_with_one_wrong_byte_has_not_arrived(tmp_path):
    job_in(tmp_path).back_up(3)
    index = tmp_path / BACKUP / "ckpt-3.index"
    content = index.read_bytes()
    for position in (0, len(content) // 2, -1):
        garbled = bytearray(content)
        garbled[position] ^= 0xFF
        index.write_bytes(garbled)
        with pytest.raises(LostService, match="did not arrive whole"):
            checkpoints._check_arrived(str(index.with_suffix("")))


def test_a_storage_that_cannot_be_asked_has_not_lost_the_state(tmp_path, monkeypatch):
    error = tf.errors.PermissionDeniedError(None, None, "for now")

    def load(path):
        raise error

    monkeypatch.setattr(tf.train, "load_checkpoint", load)
    with pytest.raises(tf.errors.PermissionDeniedError):
        job_in(tmp_path).back_up(3)


def test_every_byte_of_the_numbers_counts(tmp_path):
    path = tmp_path / "ckpt-3"
    numbers = [tf.ones([2, 3], tf.float32), tf.ones([5], tf.int64)]
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=["a", "b"], shape_and_slices=["", ""], tensors=numbers)
    data = data_of(path)
    assert data.stat().st_size == 2 * 3 * 4 + 5 * 8
    checkpoints._check_arrived(str(path))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(LostService, match=r"ckpt-3 was written and did not arrive whole \(63 of 64 bytes\): "):
        checkpoints._check_arrived(str(path))


def test_a_file_that_is_gone_before_tensorflow_gives_it_its_name_is_a_lost_service(tmp_path, monkeypatch):
    job = job_in(tmp_path)

    def save(*arguments, **options):
        raise tf.errors.NotFoundError(None, None, "…_temp/part-00000-of-00001 is gone")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save)
    with pytest.raises(LostService, match=rf"^{tmp_path}/backup/ckpt-3 was written and did not arrive whole \(.*_temp/part"):
        job.back_up(3)


POINTER = b'model_checkpoint_path: "ckpt-6"\nall_model_checkpoint_paths: "ckpt-3"\nall_model_checkpoint_paths: "ckpt-6"\n'


@pytest.fixture
def bucket(monkeypatch):
    """The objects of gs://posters by URI; TensorFlow reports that it finds no checkpoint there."""
    objects: dict[str, bytes] = {}

    def read(path):
        if str(path) not in objects:
            raise FileNotFoundError(str(path))
        return objects[str(path)]

    monkeypatch.setattr(files, "read", read)
    monkeypatch.setattr(files, "exists", lambda path: str(path) in objects)
    monkeypatch.setattr(tf.train, "latest_checkpoint", lambda folder: None)
    manager = types.SimpleNamespace(latest_checkpoint=None, checkpoints=[], checkpoint=types.SimpleNamespace(save_counter=0))
    monkeypatch.setattr(tf.train, "CheckpointManager", lambda *arguments, **options: manager)
    return objects


JOB = epath.Path("gs://posters/job")


def make_state():
    TrainingState(model_of(), JOB, writes=True, check=lambda: None)


def read_progress():
    checkpoints.read_progress(JOB)


def ask_whether_it_is_begun():
    checkpoints.is_begun(JOB)


def restore_best():
    checkpoints.restore_best(model_of(), JOB)


@pytest.mark.parametrize(
    ("folder", "ask"),
    [
        *((folder, make_state) for folder in ("backup", "checkpoints/last", "checkpoints/best")),
        *((folder, ask_whether_it_is_begun) for folder in ("backup", "checkpoints/last")),
        ("checkpoints/last", read_progress),
        ("checkpoints/best", restore_best),
    ],
)
def test_a_job_does_not_start_over_because_tensorflow_could_not_read_the_bucket(bucket, folder, ask):
    bucket |= {f"gs://posters/job/{folder}/checkpoint": POINTER, f"gs://posters/job/{folder}/ckpt-6.index": b"x"}
    with pytest.raises(LostService, match=rf"^gs://posters/job/{folder}/checkpoint could not be read by TensorFlow: run the"):
        ask()


@pytest.mark.parametrize(
    "there",
    [
        {},
        {"backup/checkpoint": POINTER},
        {"backup/checkpoint": POINTER, "backup/ckpt-3.index": b"x"},
        {"backup/checkpoint": b"", "backup/ckpt-6.index": b"x"},
        {"backup/ckpt-6.index": b"x"},
    ],
    ids=["nothing", "a pointer alone", "an older checkpoint", "an empty pointer", "no pointer"],
)
def test_a_bucket_without_a_whole_checkpoint_has_no_state(bucket, there):
    bucket |= {f"gs://posters/job/{name}": content for name, content in there.items()}
    assert not checkpoints.is_begun(JOB)
    assert checkpoints.read_progress(JOB).step == 0


def test_a_checkpoint_that_tensorflow_finds_needs_no_second_look(bucket, monkeypatch):
    bucket |= {"gs://posters/job/backup/checkpoint": POINTER, "gs://posters/job/backup/ckpt-6.index": b"x"}
    monkeypatch.setattr(tf.train, "latest_checkpoint", lambda folder: f"{folder}/ckpt-6")
    assert checkpoints.is_begun(JOB)


def test_on_a_disk_the_chief_may_save_between_two_looks(tmp_path, monkeypatch):
    job_in(tmp_path).back_up(3)
    monkeypatch.setattr(tf.train, "latest_checkpoint", lambda folder: None)
    assert not checkpoints.is_begun(epath.Path(tmp_path))
