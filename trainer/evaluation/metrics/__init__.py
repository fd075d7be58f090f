"""Metrics computed from predictions, with NumPy, SciPy and scikit-learn alone."""
