"""Evaluates a model: predictions for a split, metrics computed from them, and a report of the metrics."""
