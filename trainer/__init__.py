"""Trains a CNN to name a film's genres from its poster. The commands are the modules prepare, task, evaluate and predict."""

import os

from trainer.storage import patience

# TensorFlow reads this once, when it is imported. It silences the page about CPU features and absent GPUs, save for the few lines
# that TensorFlow 2.21 writes before its own logging is set up.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# TensorFlow would import Keras 3, which nothing here uses, each time that it is imported: a second more of every start.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

patience.set_defaults()
