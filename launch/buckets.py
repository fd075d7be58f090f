"""Paths in Cloud Storage buckets, as gs:// URIs or below the folder where buckets are mounted."""

import re

from trainer.errors import UserError

MOUNT = "/gcs/"
"""The folder where Vertex AI, and this package's Cloud Storage FUSE component, mount buckets."""

_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]*")


def to_uri(flag: str, path: str) -> str:
    """Converts a folder's path to its URI, gs://BUCKET/FOLDER.

    Args:
      flag: the flag that the path is the value of, for the error.
      path: a gs:// URI, or a path below /gcs/.

    Raises:
      UserError: the path is not in a bucket, so that workers on other machines cannot reach it.
    """
    rest = path.removeprefix("gs://") if path.startswith("gs://") else path.removeprefix(MOUNT)
    if rest == path:
        raise UserError(
            f"--{flag}={path} is not in a bucket, but the workers run on other machines: use gs://BUCKET/…, or "
            f"{MOUNT}BUCKET/… for a mounted bucket"
        )
    if not _BUCKET.fullmatch(rest.partition("/")[0]):
        raise UserError(f"--{flag}={path} does not name a valid bucket: use gs://BUCKET/FOLDER")
    return f"gs://{rest.rstrip('/')}"
