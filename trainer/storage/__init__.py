"""Cloud Storage, through Google's client. TensorFlow has a client of its own, for what it reads and writes itself."""
