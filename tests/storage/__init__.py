"""Cloud Storage on this machine: what TensorFlow and google-cloud-storage talk to in tests, unmodified."""
