"""Trains a CNN to name a film's genres from its poster. The commands are the modules prepare, task, evaluate and predict."""

import os

from trainer.storage import patience

# TensorFlow would import Keras 3, which nothing here uses, each time that it is imported: a second more of every start.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

patience.set_defaults()
