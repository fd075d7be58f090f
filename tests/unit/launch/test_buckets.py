"""Paths in buckets."""

import re

import pytest

from launch import buckets
from trainer.errors import UserError


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("gs://films/d", "gs://films/d"),
        ("gs://films/d//", "gs://films/d"),
        ("gs://films", "gs://films"),
        ("/gcs/films/d/", "gs://films/d"),
        ("/gcs/9_films.x-y", "gs://9_films.x-y"),
        ("gs:///gcs/films", None),
        ("gs://", None),
        ("gs://Films/d", None),
        ("/gcs/", None),
    ],
)
def test_a_path_in_a_bucket_becomes_a_uri(path, uri):
    if uri is None:
        with pytest.raises(UserError, match=re.escape(f"--job_dir={path} does not name a valid bucket: use gs://BUCKET/FOLDER")):
            buckets.to_uri("job_dir", path)
    else:
        assert buckets.to_uri("job_dir", path) == uri


@pytest.mark.parametrize("path", ["films/d", "/films/d", "", "s3://films/d", "x/gcs/films"])
def test_a_path_elsewhere_is_refused(path):
    with pytest.raises(UserError, match=f"--job_dir={path} is not in a bucket, but the workers run on other machines: use gs://"):
        buckets.to_uri("job_dir", path)
