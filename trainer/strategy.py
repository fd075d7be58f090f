"""Which tf.distribute strategy a job runs under, and why."""

import logging

import tensorflow as tf

_log = logging.getLogger(__name__)


def create(name: str) -> tf.distribute.Strategy:
    """Sets the GPUs up and makes the strategy.

    Args:
      name: one_device, mirrored, or auto: mirrored where there are several GPUs, else one_device.

    Returns:
      The strategy; what was chosen and why is logged once.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Without this TensorFlow takes all of a GPU's memory, and a second process (a debugger, a notebook) none.
        tf.config.experimental.set_memory_growth(gpu, True)
    devices = "no GPU" if not gpus else f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"
    reason = f"--strategy={name}"
    if name == "auto":
        name, reason = ("mirrored", devices) if len(gpus) > 1 else ("one_device", devices)
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        strategy = tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    _log.info("strategy %s (%s), %d replica(s)", name, reason, strategy.num_replicas_in_sync)
    return strategy
