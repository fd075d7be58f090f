"""HTTP/1.1 on asyncio's streams: only what a proxy between known clients and a known server needs."""

import asyncio
import dataclasses
import http
import json
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

LIMIT = 2**20  # Bytes that a stream reads ahead, also the largest head.

_OF_CONNECTION = ("connection", "transfer-encoding", "content-length")  # Headers about how a body is sent.


@dataclasses.dataclass(frozen=True)
class Head:
    """The part of a request or an answer before its body.

    Attributes:
      words: the three parts of the first line.
      headers: header values by lower-case name.
    """

    words: tuple[str, str, str]
    headers: dict[str, str]

    @property
    def method(self) -> str:
        """Returns a request's method."""
        return self.words[0]

    @property
    def target(self) -> str:
        """Returns a request's path and query, as sent."""
        return self.words[1]

    @property
    def path(self) -> str:
        """Returns a request's path, as sent."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """Returns a request's query, decoded."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, whose body may arrive in chunks.

    Attributes:
      status: the status code.
      headers: all headers except those about how the body is sent.
      length: size of the body in bytes.
      body: chunks of the body, which can be read only once.
    """

    status: int
    headers: dict[str, str]
    length: int
    body: AsyncIterator[bytes]

    async def whole(self) -> bytes:
        """Returns the whole body."""
        return b"".join([chunk async for chunk in self.body])


def answer(status: int, content: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Returns an answer whose body is `content`: bytes as they are, anything else as JSON."""
    kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status, {"content-type": kind} | (headers or {}), len(data), _once(data))


def error(status: int, reason: str, message: str) -> Answer:
    """Returns an error answer in the format of Google's servers."""
    errors = [{"message": message, "domain": "global", "reason": reason}]
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return answer(status, {"error": {"code": status, "message": message, "errors": errors}}, headers)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Reads the part before the body; returns None if the stream has ended."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = text.split("\r\n")
    words = (*first.split(" ", 2), "")[:3]
    fields = (line.split(":", 1) for line in lines if line)
    return Head((words[0], words[1], words[2]), {name.strip().lower(): value.strip() for name, value in fields})


async def read_body(head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Reads a request's body, after sending 100 Continue if the client waits for it."""
    # Behind a proxy, urllib3 sends a small body only after the head's TCP acknowledgement, which Linux would delay by 40 ms.
    if sys.platform == "linux":
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    if head.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # TensorFlow's uploads have both headers, and also `Transfer-Encoding: identity`, which has no meaning.
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        return b"".join([chunk async for chunk in _dechunked(reader)])
    return b"".join([chunk async for chunk in _counted(reader, int(head.headers.get("content-length", 0)))])


async def read_answer(method: str, reader: asyncio.StreamReader) -> Answer:
    """Reads the head of an answer to a request with this method. The caller must read the body before the next answer."""
    head = await read_head(reader)
    if head is None:
        raise ConnectionResetError("no answer")
    status = int(head.words[1])
    headers = {name: value for name, value in head.headers.items() if name not in _OF_CONNECTION}
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, 0, _once(b""))
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        data = b"".join([chunk async for chunk in _dechunked(reader)])
        return Answer(status, headers, len(data), _once(data))
    length = int(head.headers["content-length"])
    return Answer(status, headers, length, _counted(reader, length))


async def send(writer: asyncio.StreamWriter, what: Answer) -> None:
    """Sends an answer to the client."""
    writer.write(head_of(what))
    async for chunk in what.body:
        writer.write(chunk)
        await writer.drain()
    await writer.drain()


def head_of(what: Answer) -> bytes:
    """Returns the bytes on the wire before the body of an answer."""
    headers = what.headers if what.status in (204, 304) else {**what.headers, "content-length": str(what.length)}
    return _wire(f"HTTP/1.1 {what.status} {_phrase(what.status)}", headers)


async def ask(
    writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str], body: tuple[bytes | bytearray, ...]
) -> None:
    """Sends a request whose body is the concatenation of `body`."""
    writer.write(_wire(f"{method} {target} HTTP/1.1", {**headers, "content-length": str(sum(map(len, body)))}))
    for piece in body:
        view = memoryview(piece)
        # In pieces, because a stream copies what it cannot send at once.
        for start in range(0, len(view), LIMIT):
            writer.write(view[start : start + LIMIT])
            await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection with a TCP reset, without sending buffered data."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(respond: Callable[[Head, bytes], Awaitable[Answer]]) -> asyncio.Server:
    """Serves plain HTTP on a free port of the loopback interface."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await read_head(reader):
                await send(writer, await respond(head, await read_body(head, reader, writer)))
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client closed the connection.
        finally:
            writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0, limit=LIMIT)


def port_of(server: asyncio.Server) -> int:
    """Returns the port on which a server listens."""
    return int(server.sockets[0].getsockname()[1])


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _counted(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        chunk = await reader.read(min(length, LIMIT))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(chunk)
        yield chunk


async def _dechunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass


def _wire(first: str, headers: dict[str, str]) -> bytes:
    # In the usual capitalization: TensorFlow finds `Location`, not `location`.
    lines = (first, *(f"{name.title()}: {value}" for name, value in headers.items()), "", "")
    return "\r\n".join(lines).encode("latin-1")


def _phrase(status: int) -> str:
    # Google's 308 differs from the standard's.
    return "Resume Incomplete" if status == 308 else http.HTTPStatus(status).phrase
