"""Uploads of all three kinds: the data, the object's name and the precondition.

Resumable uploads are assembled here, because the emulator's are wrong. When a client asks for the progress, the emulator makes an
object of the part that it has. It forgets complete uploads, so a client that lost the last answer cannot ask again.
"""

import base64
import dataclasses
import hashlib
import json
import re
import secrets
import time
from urllib.parse import quote, unquote

import google_crc32c

from tests.fakes.storage import messages
from tests.fakes.storage.messages import Answer, Head

_BUCKET = re.compile(r"^(?:/resumable)?/upload/storage/v1/b/([^/]+)/o$")
_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")


@dataclasses.dataclass
class Upload:
    """An object that is being uploaded.

    Attributes:
      bucket: name of the bucket.
      metadata: the client's metadata, with the object's `name`.
      condition: the client's `ifGenerationMatch`, if any.
      data: bytes received so far.
      done: status and body of the answer to the request that completed the upload.
    """

    bucket: str
    metadata: dict[str, str]
    condition: str | None
    data: bytearray
    done: tuple[int, bytes] | None = None

    def complete(self, status: int, body: bytes) -> None:
        """Keeps the answer to the last request for a client that asks again, and drops the bytes."""
        # After an error the client may send the last request again.
        if status == 200:
            self.done = (status, body)
            self.data = bytearray()

    def resource(self) -> dict[str, str]:
        """Returns Cloud Storage's description of the object, with the checksums that clients compare."""
        name = self.metadata["name"]
        now = time.time_ns() // 1000
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{name}/{now}",
            "name": name,
            "bucket": self.bucket,
            "generation": str(now),
            "metageneration": "1",
            "size": str(len(self.data)),
            "md5Hash": base64.b64encode(hashlib.md5(self.data).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.value(bytes(self.data)).to_bytes(4)).decode(),
            "etag": f"CA{now}",
            "mediaLink": f"https://storage.googleapis.com/download/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}?alt=media",
        }

    def request(self) -> tuple[str, dict[str, str], tuple[bytes | bytearray, ...]]:
        """Returns target, headers and body (in pieces) of a single request that uploads the whole object."""
        boundary = secrets.token_hex(16)
        kind = self.metadata.get("contentType", "application/octet-stream")
        parts = (
            f"--{boundary}\r\ncontent-type: application/json\r\n\r\n{json.dumps(self.metadata)}\r\n".encode(),
            f"--{boundary}\r\ncontent-type: {kind}\r\n\r\n".encode(),
            self.data,
            f"\r\n--{boundary}--\r\n".encode(),
        )
        target = f"/upload/storage/v1/b/{quote(self.bucket)}/o?uploadType=multipart"
        return target, {"content-type": f"multipart/related; boundary={boundary}"}, parts


def is_upload(head: Head) -> bool:
    """Returns whether a request is part of an upload."""
    return bool(_BUCKET.match(head.path))


def completes(head: Head) -> bool:
    """Returns whether a request is the only or the last one of an upload."""
    if not is_upload(head):
        return False
    if head.method == "POST":
        return head.query.get("uploadType") != "resumable"
    part = _part(head)
    return part is None or (part.first is not None and part.total == part.last + 1)


class Uploads:
    """The uploads in progress, and the complete ones, about which clients may still ask."""

    def __init__(self) -> None:
        self._resumable: dict[str, Upload] = {}

    def name(self, head: Head, body: bytes) -> str:
        """Returns the URL-encoded name of the object that a request uploads; empty if it is unknown."""
        try:
            if head.method != "POST":
                upload = self._resumable[head.query["upload_id"]]
            else:
                upload = single(head, body) if completes(head) else _upload(head, json.loads(body or b"{}"), b"")
            return quote(upload.metadata["name"], safe="")
        except (KeyError, ValueError):
            return ""

    def begin(self, host: str, head: Head, body: bytes) -> tuple[Upload, Answer]:
        """Begins a resumable upload; returns it and the answer with the URI for its data."""
        metadata = json.loads(body) if body else {}
        if kind := head.headers.get("x-upload-content-type"):
            metadata = {"contentType": kind} | metadata
        upload = _upload(head, metadata, b"")
        number = secrets.token_hex(16)
        self._resumable[number] = upload
        location = f"https://{host}{head.path}?uploadType=resumable&upload_id={number}"
        return upload, messages.answer(200, b"", {"location": location, "x-guploader-uploadid": number})

    def proceed(self, head: Head, body: bytes) -> tuple[Upload, Answer | None]:
        """Handles the next bytes of a resumable upload, or a query of its progress.

        Returns:
          The upload and the answer; None instead of the answer if the upload is complete and must now be stored.

        Raises:
          KeyError: there is no such upload.
        """
        upload = self._resumable[head.query["upload_id"]]
        if upload.done:
            status, data = upload.done
            return upload, messages.answer(status, data, {"content-type": "application/json"})
        part = _part(head) or _Part(0, len(body) - 1, len(body))
        if part.first is not None:
            if part.first > len(upload.data) or part.last + 1 - part.first != len(body):
                return upload, messages.error(
                    400, "invalid", "The bytes do not continue the received ones, or do not match Content-Range."
                )
            # A client may repeat bytes that were received; the received ones stay.
            upload.data += body[len(upload.data) - part.first :]
        if part.total == len(upload.data):
            return upload, None
        received = {"range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
        return upload, messages.answer(308, b"", received)


def single(head: Head, body: bytes) -> Upload:
    """Returns the upload that consists of a single request."""
    kind = head.headers.get("content-type", "")
    if head.query.get("uploadType") == "media":
        return _upload(head, {"contentType": kind} if kind else {}, body)
    match = re.search(r"boundary=\"?([^\";]+)", kind)
    if match is None:
        raise ValueError("a multipart upload needs a boundary")
    mark = b"--" + match[1].encode()
    second = body.index(mark, body.index(mark) + len(mark))
    description = body[: body.rindex(b"\r\n", 0, second)].partition(b"\r\n\r\n")[2]
    content = body[body.index(b"\r\n\r\n", second) + 4 : body.rindex(b"\r\n" + mark + b"--")]
    return _upload(head, json.loads(description), content)


def _upload(head: Head, metadata: dict[str, str], data: bytes) -> Upload:
    match = _BUCKET.match(head.path)
    assert match is not None
    if "name" in head.query:
        metadata = metadata | {"name": head.query["name"]}
    return Upload(unquote(match[1]), metadata, head.query.get("ifGenerationMatch"), bytearray(data))


@dataclasses.dataclass(frozen=True)
class _Part:
    """The bytes that a request announces: the first (None for a query), the last, and the total number, if known."""

    first: int | None
    last: int
    total: int | None


def _part(head: Head) -> _Part | None:
    header = head.headers.get("content-range")
    if header is None:
        return None
    match = _RANGE.match(header)
    if match is None:
        raise ValueError(f"Content-Range {header!r} is not a range of bytes")
    first, last, total = match.groups()
    return _Part(None if first is None else int(first), -1 if last is None else int(last), None if total == "*" else int(total))
