"""Accelerators by GKE's names."""

import re

import pytest

from launch import accelerators
from launch.accelerators import Accelerator
from trainer.errors import UserError


@pytest.mark.parametrize(
    ("text", "found", "replicas"),
    [
        ("nvidia-l4", Accelerator(type="nvidia-l4", count=1), 1),
        ("nvidia-l4:1", Accelerator(type="nvidia-l4", count=1), 1),
        ("nvidia-l4:8", Accelerator(type="nvidia-l4", count=8), 8),
        ("nvidia-tesla-p4:4", Accelerator(type="nvidia-tesla-p4", count=4), 4),
        ("nvidia-tesla-a100:16", Accelerator(type="nvidia-tesla-a100", count=16), 16),
        ("tpu-v3-device", Accelerator(type="tpu-v3-device", count=4, topology="2x2"), 8),
        ("tpu-v4-podslice:4", Accelerator(type="tpu-v4-podslice", count=4, topology="2x2x1"), 4),
        ("tpu-v5-lite-podslice", Accelerator(type="tpu-v5-lite-podslice", count=1, topology="1x1"), 1),
        ("tpu-v5-lite-podslice:8", Accelerator(type="tpu-v5-lite-podslice", count=8, topology="2x4"), 8),
    ],
)
def test_an_accelerator_has_a_count_and_a_tpu_a_topology(text, found, replicas):
    assert accelerators.parse(text) == found
    assert accelerators.parse(text).replicas == replicas
    assert accelerators.parse(text).is_tpu == text.startswith("tpu")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nvidia-l4:9", "--accelerator=nvidia-l4:9 is more than one machine has: use at most nvidia-l4:8"),
        ("nvidia-l4:01", "--accelerator must be TYPE or TYPE:COUNT, such as nvidia-l4:2, got 'nvidia-l4:01'"),
        ("nvidia-l4:12345", "--accelerator must be TYPE or TYPE:COUNT, such as nvidia-l4:2, got 'nvidia-l4:12345'"),
        ("nvidia-l4:9999", "is more than one machine has"),
        ("tpu-v3-device:8", "--accelerator=tpu-v3-device:8 is not a TPU on one host: use tpu-v3-device:4"),
        (
            "tpu-v5-lite-podslice:2",
            "is not a TPU on one host: use tpu-v5-lite-podslice:1 or tpu-v5-lite-podslice:4 or tpu-v5-lite-podslice:8",
        ),
        ("T4", "--accelerator=T4 is unknown: choose one of nvidia-tesla-p4, nvidia-tesla-p100"),
        ("Tesla_T4:2", "--accelerator=Tesla_T4:2 is unknown: did you mean nvidia-tesla-t4? Choose one of"),
        ("", "--accelerator= is unknown: choose one of"),
    ],
)
def test_an_accelerator_that_no_machine_has_is_an_error(text, says):
    with pytest.raises(UserError, match=re.escape(says)):
        accelerators.parse(text)
