"""Trains a CNN to name a film's genres from its poster. The commands are the modules prepare, task, evaluate and predict."""

import os

from trainer.storage import patience

# TensorFlow reads this once, when it is imported. It silences the page about CPU features and absent GPUs, save for the few lines
# that TensorFlow 2.21 writes before its own logging is set up.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

patience.set_defaults()
