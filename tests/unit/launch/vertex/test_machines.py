"""The choice of a machine on Vertex AI."""

import json

import pytest
from google.cloud.aiplatform_v1.types import CustomJob

from launch import accelerators
from launch.job import Job
from launch.vertex import machines
from launch.vertex import spec as vertex
from tests.fakes.vertex import server
from trainer.errors import UserError


def machine(accelerator=None, cpu=None, memory=None):
    device = None if accelerator is None else accelerators.parse(accelerator)
    return machines.choose(device, cpu=cpu, memory=memory)


@pytest.mark.parametrize(
    ("accelerator", "cpu", "memory", "type_"),
    [
        (None, None, None, "e2-standard-4"),
        (None, "2", None, "e2-highmem-2"),
        (None, "500m", "1Gi", "e2-highmem-2"),
        (None, "3", "16Gi", "e2-standard-4"),
        (None, "4", "17Gi", "e2-highmem-4"),
        (None, "16", None, "e2-highcpu-16"),
        (None, "16", "64G", "e2-standard-16"),
        (None, "33", None, "n2-highcpu-48"),
        (None, None, "200Gi", "n2-highmem-32"),
        (None, "81", None, "n1-highcpu-96"),
        (None, None, "640Gi", "n2-highmem-80"),
        ("nvidia-tesla-t4", None, None, "n1-standard-4"),
        ("nvidia-tesla-t4:2", "17", None, "n1-highcpu-32"),
        ("nvidia-tesla-v100:8", "40", "500Gi", "n1-highmem-96"),
        ("nvidia-l4", None, None, "g2-standard-4"),
        ("nvidia-l4", "13", "100Gi", "g2-standard-32"),
        ("nvidia-l4:8", None, None, "g2-standard-96"),
        ("nvidia-tesla-a100:16", None, None, "a2-megagpu-16g"),
        ("nvidia-a100-80gb:4", None, None, "a2-ultragpu-4g"),
        ("nvidia-h100-80gb:8", None, None, "a3-highgpu-8g"),
        ("nvidia-h100-mega-80gb:8", None, None, "a3-megagpu-8g"),
        ("nvidia-h200-141gb:8", None, None, "a3-ultragpu-8g"),
        ("nvidia-b200:8", None, None, "a4-highgpu-8g"),
        ("tpu-v5-lite-podslice:4", "100", None, "ct5lp-hightpu-4t"),
        ("tpu-v3-device", None, None, "cloud-tpu"),
    ],
)
def test_the_smallest_machine_is_chosen_that_fits(accelerator, cpu, memory, type_):
    assert machine(accelerator, cpu, memory).type == type_


def test_vertex_ai_has_every_machine():
    """Each machine that may be chosen, with each accelerator in each number, is in the documentation's table."""
    counts = [f"{type_}:{count}" for type_ in (*machines._ATTACHED, *machines._BUILT_IN, *machines._TPUS) for count in range(1, 17)]
    seen = set()
    specified = vertex.specify(Job(arguments=("--data_dir=gs://films/d", "--job_dir=gs://films/j"), image="i"), name="film-1")
    for accelerator in (None, *counts):
        try:
            device = None if accelerator is None else accelerators.parse(accelerator)
            found = list(machines._without_accelerator() if device is None else machines._with_accelerator(device))
        except UserError:
            continue
        assert found
        for each in found:
            seen.add(each.type)
            pool = {"machineSpec": each.spec, "replicaCount": 1, "containerSpec": {"imageUri": "i"}}
            job = specified | {"jobSpec": specified["jobSpec"] | {"workerPoolSpecs": [pool]}}
            assert server.problems(CustomJob.from_json(json.dumps(job))) == [], each
    assert seen >= {*server._GPUS, *server._TPUS}


@pytest.mark.parametrize(
    ("accelerator", "cpu", "memory", "type_"),
    [
        (None, "2000m", "16Gi", "e2-highmem-2"),
        (None, "2001m", None, "e2-standard-4"),
        (None, "1", "8.001Gi", "e2-highmem-2"),
        (None, None, "0.01Ti", "e2-standard-4"),
        (None, None, "17000M", "e2-standard-4"),
        (None, None, "17180M", "e2-highmem-4"),  # 16 GiB are 17179.87 MB.
        ("nvidia-tesla-p4:2", "32", None, "n1-highcpu-32"),
        ("nvidia-tesla-v100", "8", None, "n1-standard-8"),
        ("nvidia-l4:2", None, None, "g2-standard-24"),
        ("nvidia-tesla-a100:8", "96", "680Gi", "a2-highgpu-8g"),
    ],
)
def test_a_machine_of_exactly_the_size_fits(accelerator, cpu, memory, type_):
    assert machine(accelerator, cpu, memory).type == type_


def test_a_machine_tells_its_accelerator_to_the_api():
    assert machine("nvidia-tesla-t4:2").spec == {
        "machineType": "n1-standard-4",
        "acceleratorType": "NVIDIA_TESLA_T4",
        "acceleratorCount": 2,
    }
    assert machine("tpu-v3-device").spec == {"machineType": "cloud-tpu", "acceleratorType": "TPU_V3", "acceleratorCount": 8}
    assert machine("tpu-v5-lite-podslice:8").spec == {"machineType": "ct5lp-hightpu-8t", "tpuTopology": "2x4"}
    assert machine().spec == {"machineType": "e2-standard-4"}


@pytest.mark.parametrize(
    ("accelerator", "cpu", "memory", "says"),
    [
        ("nvidia-tesla-t4:3", None, None, "whose machines have 1, 2, 4: use nvidia-tesla-t4:4"),  # The larger of the nearest.
        ("nvidia-tesla-a100:12", None, None, "whose machines have 1, 2, 4, 8, 16: use nvidia-tesla-a100:16"),
        ("nvidia-l4:7", None, None, "use nvidia-l4:8"),
        (None, None, "641Gi", "--memory=641Gi is more than any Vertex AI machine has: use at most 96 cores and 624Gi"),
        (
            "nvidia-l4",
            "33",
            "1Gi",
            "--cpu=33 --memory=1Gi is more than any Vertex AI machine with nvidia-l4:1 has",
        ),
    ],
)
def test_a_machine_that_does_not_exist_is_an_error(accelerator, cpu, memory, says):
    with pytest.raises(UserError, match=says):
        machine(accelerator, cpu, memory)
