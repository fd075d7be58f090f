"""The places of a job whose workers run elsewhere: buckets, under Cloud Storage's name for them or as a folder."""

import re

from trainer.errors import UserError

MOUNT = "/gcs/"
"""Where Vertex AI shows buckets to the workers, and Cloud Storage FUSE is set up to."""

_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]*")


def address(flag: str, path: str) -> str:
    """A folder as Cloud Storage names it, gs://BUCKET/FOLDER, however the workers name it.

    Raises:
      UserError: it is in no bucket, so that workers on other machines cannot have it.
    """
    rest = path.removeprefix("gs://") if path.startswith("gs://") else path.removeprefix(MOUNT)
    if rest == path:
        raise UserError(
            f"--{flag}={path} is in no bucket, and the workers are on other machines: use gs://BUCKET/…, or "
            f"{MOUNT}BUCKET/… for its mount"
        )
    if not _BUCKET.fullmatch(rest.partition("/")[0]):
        raise UserError(f"--{flag}={path} names no bucket: use gs://BUCKET/FOLDER")
    return f"gs://{rest.rstrip('/')}"
