"""Which strategy is chosen, why, and what is refused."""

import importlib.util
import logging
import types
from pathlib import Path

import pytest
import tensorflow as tf

from trainer.cluster import strategy
from trainer.cluster.discovery import Cluster
from trainer.errors import UserError

TPU = {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}


def choose(name, *, workers=0, gpus=0, environ=None, tpu_devices=False):
    choice = strategy.choose(name, workers=workers, gpus=gpus, environ=environ or {}, tpu_devices=tpu_devices)
    return choice.name, choice.reason


@pytest.mark.parametrize(
    ("there", "name", "reason"),
    [
        ({}, "one_device", "no GPU"),
        ({"gpus": 1}, "one_device", "1 GPU"),
        ({"gpus": 4}, "mirrored", "4 GPUs"),
        ({"workers": 1}, "one_device", "no GPU"),
        ({"workers": 1, "gpus": 2}, "mirrored", "2 GPUs"),
        ({"workers": 2}, "multi_worker", "a cluster of 2 workers"),
        ({"workers": 8, "gpus": 4}, "multi_worker", "a cluster of 8 workers"),
        ({"tpu_devices": True}, "tpu", "a TPU in this machine"),
        ({"environ": TPU}, "tpu", "TPU_ACCELERATOR_TYPE=v5litepod-8"),
        ({"environ": {"TPU_NAME": "local"}}, "tpu", "TPU_NAME=local"),
        ({"environ": {"TPU_NAME": ""}}, "one_device", "no GPU"),
        ({"environ": TPU, "workers": 1, "gpus": 2}, "tpu", "TPU_ACCELERATOR_TYPE=v5litepod-8"),
    ],
)
def test_auto_takes_the_best_available_strategy(there, name, reason):
    assert choose("auto", **there) == (name, reason)


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("one_device", {}),
        ("one_device", {"gpus": 4}),
        ("one_device", {"environ": TPU}),
        ("one_device", {"workers": 1}),
        ("mirrored", {}),
        ("mirrored", {"gpus": 4, "workers": 1}),
        ("multi_worker", {"workers": 2}),
        ("multi_worker", {"workers": 1}),
        ("multi_worker", {"workers": 2, "environ": TPU}),
        ("tpu", {"environ": TPU}),
        ("tpu", {"environ": {"TPU_NAME": "local"}, "workers": 1}),
        ("tpu", {"tpu_devices": True, "gpus": 2}),
    ],
)
def test_a_named_strategy_is_taken(name, there):
    assert choose(name, **there) == (name, f"--strategy={name}")


@pytest.mark.parametrize("name", ["auto", "tpu"])
@pytest.mark.parametrize("kind", ["v2-8", "v3-8", "v4-8", "v5litepod-8", "v5p-8", "tpu-v5-lite-podslice", "unheard of"])
def test_a_tpu_of_one_host_up_to_v5_is_taken(name, kind):
    hosts = {"TPU_WORKER_HOSTNAMES": "localhost"}
    assert choose(name, environ={"TPU_ACCELERATOR_TYPE": kind, **hosts})[0] == "tpu"


@pytest.mark.parametrize(
    ("name", "there", "words"),
    [
        ("multi_worker", {}, ["--strategy=multi_worker", "no cluster is described", "TF_CONFIG", "POSTER_WORKERS"]),
        ("multi_worker", {"gpus": 2, "environ": TPU}, ["no cluster is described"]),
        ("one_device", {"workers": 2}, ["--strategy=one_device", "2 workers", "train alone", "multi_worker or auto"]),
        ("one_device", {"workers": 2, "environ": TPU}, ["train alone"]),
        ("mirrored", {"workers": 3, "gpus": 2}, ["--strategy=mirrored", "3 workers", "train alone", "multi_worker or auto"]),
        ("tpu", {}, ["--strategy=tpu", "no TPU is configured", "requirements-tpu.lock"]),
        ("tpu", {"gpus": 2, "workers": 2}, ["no TPU is configured"]),
        ("tpu", {"environ": {"TPU_NAME": "", "TPU_ACCELERATOR_TYPE": ""}}, ["no TPU is configured"]),
        *(
            (name, {**there, "environ": {**TPU, **environ}}, [*words, "v5litepod-8", "GPUs"])
            for name in ("auto", "tpu")
            for there, environ, words in (
                ({"workers": 2}, {}, ["2 workers", "one host"]),
                ({}, {"TPU_WORKER_HOSTNAMES": "a-0.a,a-1.a"}, ["TPU_WORKER_HOSTNAMES names 2 hosts", "one host"]),
                ({}, {"TPU_ACCELERATOR_TYPE": "v6e-8"}, ["TPU_ACCELERATOR_TYPE=v6e-8", "no release", "v2 to v5"]),
                ({}, {"TPU_ACCELERATOR_TYPE": "v7-8"}, ["TPU_ACCELERATOR_TYPE=v7-8"]),
                ({}, {"TPU_ACCELERATOR_TYPE": "tpu7x-16"}, ["TPU_ACCELERATOR_TYPE=tpu7x-16"]),
                ({}, {"TPU_ACCELERATOR_TYPE": "tpu-v6e-slice"}, ["TPU_ACCELERATOR_TYPE=tpu-v6e-slice"]),
                ({}, {"TPU_ACCELERATOR_TYPE": "v10-8"}, ["TPU_ACCELERATOR_TYPE=v10-8"]),
            )
        ),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_with_the_remedy(name, there, words):
    with pytest.raises(UserError) as refusal:
        choose(name, **there)
    line = str(refusal.value)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.fixture
def no_tpu(monkeypatch):
    for variable in ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(strategy, "_has_tpu", lambda: False)


def test_the_choice_and_its_reason_are_logged_once(no_tpu, caplog):
    with caplog.at_level(logging.INFO, logger="trainer.cluster.strategy"):
        made = strategy.create("one_device")
    assert isinstance(made, tf.distribute.OneDeviceStrategy)
    assert [record.getMessage() for record in caplog.records] == ["strategy one_device (--strategy=one_device), 1 replica(s)"]


@pytest.mark.parametrize("cluster", [None, Cluster((), 0, "a test"), Cluster(("localhost:2222",), 0, "a test")])
def test_a_single_worker_needs_no_cluster(cluster, no_tpu, monkeypatch, caplog):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with caplog.at_level(logging.INFO, logger="trainer.cluster.strategy"):
        assert strategy.create("auto", cluster).num_replicas_in_sync == 1
    assert [record.getMessage() for record in caplog.records] == ["strategy one_device (no GPU), 1 replica(s)"]


def test_the_cluster_reaches_the_choice(no_tpu):
    with pytest.raises(UserError, match="a cluster of 2 workers"):
        strategy.create("mirrored", Cluster(("a:2222", "b:2222"), 1, "a test"))
    for cluster in (None, Cluster((), 0, "a test")):
        with pytest.raises(UserError, match="no cluster is described"):
            strategy.create("multi_worker", cluster)


@pytest.mark.parametrize("name", ["auto", "tpu"])
def test_a_configured_tpu_that_is_not_found_is_reported_in_one_line(name, no_tpu, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(UserError, match=r"^no TPU was found at local \(.*requirements-tpu\.lock") as refusal:
        strategy.create(name)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def made(monkeypatch, no_tpu):
    """The arguments of the strategies and resolvers that were created; each is a stand-in of two replicas."""
    made: dict[str, object] = {}

    def stand_in(name):
        def make(*arguments, **options):
            made[name] = (arguments, options)
            return types.SimpleNamespace(name=name, num_replicas_in_sync=2)

        return make

    for name in ("MirroredStrategy", "MultiWorkerMirroredStrategy", "TPUStrategy", "OneDeviceStrategy"):
        monkeypatch.setattr(tf.distribute, name, stand_in(name))
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", stand_in("TPUClusterResolver"))
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", stand_in("connect"))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", stand_in("initialize"))
    return made


def machine(monkeypatch, *, gpus):
    """Gives this machine that number of GPUs; returns the settings of their memory."""
    growth: list[tuple[str, bool]] = []
    devices = {
        "GPU": [types.SimpleNamespace(name=f"/device:GPU:{i}") for i in range(gpus)],
        "CPU": [types.SimpleNamespace(name="/cpu")],
    }
    monkeypatch.setattr(tf.config, "list_physical_devices", devices.__getitem__)
    monkeypatch.setattr(tf.config, "list_logical_devices", devices.__getitem__)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grows: growth.append((gpu.name, grows)))
    return growth


def test_several_gpus_are_mirrored_and_leave_memory_to_other_processes(made, monkeypatch):
    growth = machine(monkeypatch, gpus=2)
    assert strategy.create("auto").name == "MirroredStrategy"
    assert made == {"MirroredStrategy": ((["/device:GPU:0", "/device:GPU:1"],), {})}
    assert growth == [("/device:GPU:0", True), ("/device:GPU:1", True)]


def test_the_strategy_of_several_gpus_can_be_tried_without_one(made, monkeypatch):
    machine(monkeypatch, gpus=0)
    strategy.create("mirrored")
    assert made == {"MirroredStrategy": ((["/cpu"],), {})}


@pytest.mark.parametrize(("gpus", "device"), [(0, "/cpu:0"), (1, "/gpu:0"), (2, "/gpu:0")])
def test_one_device_is_the_first_gpu_or_the_processor(made, monkeypatch, gpus, device):
    machine(monkeypatch, gpus=gpus)
    strategy.create("one_device")
    assert made == {"OneDeviceStrategy": ((device,), {})}


def test_workers_of_a_cluster_know_each_other_and_their_own_place(made, monkeypatch):
    machine(monkeypatch, gpus=0)
    assert strategy.create("auto", Cluster(("a:1", "b:2"), 1, "a test")).name == "MultiWorkerMirroredStrategy"
    ((), options) = made["MultiWorkerMirroredStrategy"]
    resolver = options["cluster_resolver"]
    assert resolver.cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert (resolver.task_type, resolver.task_id, resolver.rpc_layer) == ("worker", 1, "grpc")


@pytest.mark.parametrize(
    ("name", "chip", "address"), [("local", False, "local"), ("films-tpu", False, "films-tpu"), ("films-tpu", True, "local")]
)
def test_a_tpu_is_reached_by_its_name_unless_it_is_in_this_machine(made, monkeypatch, name, chip, address):
    machine(monkeypatch, gpus=0)
    monkeypatch.setenv("TPU_NAME", name)
    monkeypatch.setattr(strategy, "_has_tpu", lambda: chip)
    assert strategy.create("auto").name == "TPUStrategy"
    assert made["TPUClusterResolver"] == ((), {"tpu": address})
    assert ("connect" in made) == (address != "local")
    (resolver,), _ = made["initialize"]
    assert resolver.name == "TPUClusterResolver"
    assert made["TPUStrategy"] == ((resolver,), {})


def test_a_tpu_that_the_machine_shows_needs_no_name(made, monkeypatch):
    machine(monkeypatch, gpus=0)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    strategy.create("auto")
    assert made["TPUClusterResolver"] == ((), {"tpu": "local"})


@pytest.mark.parametrize(
    "error",
    [
        *(tf.errors.NotFoundError(None, None, "no chip"), tf.errors.InvalidArgumentError(None, None, "no chip")),
        *(ValueError("no chip\nat all"), RuntimeError("no chip"), OSError("no chip")),
    ],
)
def test_a_tpu_that_does_not_answer_is_reported_with_the_first_line_of_the_reason(made, monkeypatch, error):
    def fail(resolver):
        raise error

    machine(monkeypatch, gpus=0)
    monkeypatch.setenv("TPU_NAME", "films-tpu")
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", fail)
    with pytest.raises(UserError, match=r"^no TPU was found at films-tpu \(no chip\): run on a TPU VM"):
        strategy.create("tpu")
    monkeypatch.setattr(error, "args", ())
    if not isinstance(error, tf.errors.OpError):
        with pytest.raises(UserError, match=rf"\({type(error).__name__}\)"):
            strategy.create("tpu")


@pytest.mark.parametrize(
    ("chip", "library", "has"),
    [
        *(("accel0", True, True), ("vfio/0", True, True), ("accel0", False, False)),
        *((None, True, False), ("vfio/vfio", True, False), ("accel", True, False)),
    ],
)
def test_a_tpu_is_there_where_its_chip_and_its_library_are(monkeypatch, tmp_path, chip, library, has):
    if chip:
        (tmp_path / chip).parent.mkdir(exist_ok=True)
        (tmp_path / chip).touch()
    monkeypatch.setattr(strategy, "Path", lambda path: tmp_path / Path(path).relative_to("/dev"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: (name == "libtpu" and library) or None)
    assert strategy._has_tpu() is has
