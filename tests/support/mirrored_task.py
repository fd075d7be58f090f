"""Runs trainer.task with the CPU split into several devices: `python -m tests.support.mirrored_task DEVICES FLAGS`."""

import runpy
import sys

import tensorflow as tf

if __name__ == "__main__":
    devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1))
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    runpy.run_module("trainer.task", run_name="__main__", alter_sys=True)
