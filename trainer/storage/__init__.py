"""Files on a disk, a mounted bucket or Cloud Storage. TensorFlow has its own client for Cloud Storage."""
