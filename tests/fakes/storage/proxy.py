"""Cloud Storage for unmodified clients: a CONNECT proxy that terminates TLS for Google's hosts.

It adds what the emulator lacks: tokens, preconditions, resumable uploads that report their progress, and faults.

    python -m tests.fakes.storage.proxy FOLDER

It writes the certificate of its authority to FOLDER/ca.pem and its ports, as JSON, to stdout. It ends, with the emulator, when its
stdin is closed. A control port accepts commands in JSON: see `Control`.
"""

import asyncio
import contextlib
import dataclasses
import json
import re
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trustme

from tests.fakes.storage import emulator, messages, uploads
from tests.fakes.storage.faults import KINDS, REFUSALS, Fault, Faults, Plan
from tests.fakes.storage.messages import Answer, Head
from tests.fakes.storage.tokens import Metadata, Tokens

# google-auth asks the last one from where a service account may be used.
_REGIONS = "iamcredentials.googleapis.com"
HOSTS = ("storage.googleapis.com", "www.googleapis.com", "oauth2.googleapis.com", _REGIONS)

_START_SECONDS = 15.0
_OBJECT = re.compile(r"^(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$")
_TOKEN_PATHS = re.compile(r"^/(token|oauth2/v[34]/token)$")
_TOKEN_KINDS = ("token_503",)


@dataclasses.dataclass
class Entry:
    """A request in the log.

    Attributes:
      time: arrival time, in seconds since 1970.
      method: HTTP method.
      host: host that the client addressed.
      target: path and query, as sent.
      range: Range header.
      upload: URL-encoded name of the object that the request uploads; the target need not contain it.
      status: status of the answer, if one was sent.
      bytes: size of the answer's body; None if the body was not sent completely.
      fault: kind of the fault that was delivered.
      seconds: duration until the request was finished.
    """

    time: float
    method: str
    host: str
    target: str
    range: str | None
    upload: str = ""
    status: int | None = None
    bytes: int | None = None
    fault: str | None = None
    seconds: float | None = None


class Emulator:
    """A connection to the emulator, opened when it is first needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, host: str, method: str, target: str, headers: dict[str, str], *body: bytes | bytearray) -> Answer:
        """Sends a request. The caller must read the answer's body before the next request."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=messages.LIMIT)
        reader, writer = self._streams
        # So that the URLs in its answers name the real hosts.
        await messages.ask(writer, method, target, {**headers, "host": host, "x-forwarded-proto": "https"}, body)
        return await messages.read_answer(method, reader)

    def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()


class Proxy:
    """The service behind the proxy's port."""

    def __init__(self, context: ssl.SSLContext, emulator_port: int) -> None:
        self.tokens = Tokens()
        self.faults = Faults()
        self.log: list[Entry] = []
        self.latency = 0.0
        self._context = context
        self._emulator_port = emulator_port
        self._uploads = uploads.Uploads()
        # Held so that a precondition stays true until the write that depends on it is done.
        self._writing = asyncio.Lock()

    def note(self, head: Head, host: str) -> Entry:
        """Adds an entry to the log."""
        entry = Entry(time.time(), head.method, host, head.target, head.headers.get("range"))
        self.log.append(entry)
        return entry

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection."""
        behind = Emulator(self._emulator_port)
        try:
            head = await messages.read_head(reader)
            if head is None:
                return
            host = head.target.removesuffix(":443")
            if head.method != "CONNECT" or host not in HOSTS:
                entry = self.note(head, head.target)
                entry.status = 403
                await messages.send(writer, messages.error(403, "forbidden", "This proxy leads to Cloud Storage only."))
                return
            writer.write(b"HTTP/1.1 200 Connection Established\r\n\r\n")
            await writer.start_tls(self._context)
            while (head := await messages.read_head(reader)) and await self._exchange(host, head, reader, writer, behind):
                pass
        # The client closed the connection, or does not trust the certificate.
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            behind.close()
            writer.close()

    async def _exchange(
        self, host: str, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behind: Emulator
    ) -> bool:
        """Answers a request; returns whether the connection can still be used."""
        entry = self.note(head, host)
        start = time.monotonic()
        try:
            body = await messages.read_body(head, reader, writer)
            if uploads.is_upload(head):
                entry.upload = self._uploads.name(head, body)
            fault = self._fault(entry, head)
            if fault:
                entry.fault = fault.kind
                if fault.kind == "reset":
                    messages.reset(writer)
                    return False
            answer = await self._answer(host, head, body, fault, behind)
            if fault and fault.kind == "lost_answer":
                await answer.whole()
                messages.reset(writer)
                return False
            await asyncio.sleep((fault.seconds if fault and fault.kind == "slow" else 0) + self.latency)
            entry.status = answer.status
            if fault and fault.kind == "truncated":
                if answer.length >= 2:
                    data = await answer.whole()
                    entry.bytes = len(data) // 2
                    writer.write(messages.head_of(answer) + data[: entry.bytes])
                    return False
                entry.fault = None
                self.faults.withdraw(fault)
            await messages.send(writer, answer)
            entry.bytes = answer.length
            return head.headers.get("connection", "").lower() != "close"
        finally:
            entry.seconds = time.monotonic() - start

    def _fault(self, entry: Entry, head: Head) -> Fault | None:
        if _asks_for_token(entry.host, head):
            fitting: tuple[str, ...] = _TOKEN_KINDS
        elif entry.host != _REGIONS and self.tokens.admit(head.headers.get("authorization", "")):
            others = _TOKEN_KINDS if uploads.completes(head) else (*_TOKEN_KINDS, "swallowed")
            fitting = tuple(kind for kind in KINDS if kind not in others)
        else:
            return None
        return self.faults.draw(f"{entry.method} {entry.host} {entry.target} {entry.upload}", fitting)

    async def _answer(self, host: str, head: Head, body: bytes, fault: Fault | None, behind: Emulator) -> Answer:
        if fault and fault.kind in REFUSALS:
            return messages.error(*REFUSALS[fault.kind])
        if _asks_for_token(host, head):
            return messages.answer(200, self.tokens.issue())
        if not self.tokens.admit(head.headers.get("authorization", "")):
            return messages.error(401, "authError", "Invalid Credentials")
        if host == _REGIONS:
            return messages.answer(200, {"locations": [], "encodedLocations": "0x0"})
        if uploads.is_upload(head):
            return await self._upload(host, head, body, behind, swallow=fault is not None and fault.kind == "swallowed")
        async with contextlib.nullcontext() if head.method == "GET" else self._writing:
            named = _OBJECT.match(head.path)
            if named and head.method in ("GET", "DELETE") and "ifGenerationMatch" in head.query:
                generation = await _generation(host, named[1], named[2], behind)
                # The emulator itself reports an object that does not exist.
                if generation not in ("0", head.query["ifGenerationMatch"]):
                    return _unmet()
            # The body is complete here, so the emulator need not agree to it with 100 Continue.
            dropped = ("transfer-encoding", "content-length", "expect", "connection", "authorization")
            headers = {name: value for name, value in head.headers.items() if name not in dropped}
            return await behind.ask(host, head.method, head.target, headers, body)

    async def _upload(self, host: str, head: Head, body: bytes, behind: Emulator, *, swallow: bool) -> Answer:
        """Answers a request of an upload; a swallowed upload only appears to be stored."""
        try:
            if uploads.completes(head) and head.method == "POST":
                upload, answer = uploads.single(head, body), None
            elif head.method == "POST":
                upload, answer = self._uploads.begin(host, head, body)
            else:
                upload, answer = self._uploads.proceed(head, body)
        except ValueError as error:
            return messages.error(400, "invalid", str(error))
        except KeyError:
            return messages.error(404, "notFound", "No such upload.")
        async with self._writing:
            # The precondition of a resumable upload is checked at its beginning and at its end.
            if upload.condition is not None and upload.done is None and (answer is None or head.method == "POST"):
                names = (quote(upload.bucket, safe=""), quote(upload.metadata["name"], safe=""))
                if await _generation(host, names[0], names[1], behind) != upload.condition:
                    return _unmet()
            if answer is not None:
                return answer
            if swallow:
                status, data = 200, json.dumps(upload.resource()).encode()
            else:
                target, headers, pieces = upload.request()
                stored = await behind.ask(host, "POST", target, headers, *pieces)
                status, data = stored.status, await stored.whole()
            upload.complete(status, data)
            return messages.answer(status, data, {"content-type": "application/json"})


class Control:
    """Executes the commands of the control port.

    POST /plan takes a list of plans; /latency and /metadata take the arguments of `Storage.latency` and `Metadata.refuse`; /revoke
    and /clear take nothing. GET /log and /counts return what happened.
    """

    def __init__(self, proxy: Proxy, metadata: Metadata) -> None:
        self._proxy = proxy
        self._orders: dict[str, Callable[..., Any]] = {
            "/plan": lambda *plans: proxy.faults.replace(Plan(**plan) for plan in plans),
            "/latency": self._latency,
            "/metadata": metadata.refuse,
            "/revoke": proxy.tokens.revoke,
            "/clear": self._clear,
            "/log": lambda: [dataclasses.asdict(entry) for entry in proxy.log],
            "/counts": lambda: +proxy.faults.counts,
        }

    async def respond(self, head: Head, body: bytes) -> Answer:
        """Executes a command; answers with its result, or `null`."""
        try:
            return messages.answer(200, self._orders[head.path](*json.loads(body or b"[]")))
        except (KeyError, TypeError, ValueError) as error:
            return messages.error(400, "invalid", f"{head.path}: {error}")

    def _latency(self, seconds: float) -> None:
        self._proxy.latency = seconds

    def _clear(self) -> None:
        """Ends all faults and the latency, and clears the log."""
        self._proxy.faults.replace(())
        self._proxy.faults.counts.clear()
        self._proxy.log.clear()
        self._proxy.latency = 0.0


def _asks_for_token(host: str, head: Head) -> bool:
    return host != "storage.googleapis.com" and bool(_TOKEN_PATHS.match(head.path))


async def _generation(host: str, bucket: str, name: str, behind: Emulator) -> str:
    """Returns an object's generation, 0 if there is no object. `bucket` and `name` are URL-encoded."""
    answer = await behind.ask(host, "GET", f"/storage/v1/b/{bucket}/o/{name}", {})
    found = json.loads(await answer.whole())
    return str(found["generation"]) if answer.status == 200 else "0"


def _unmet() -> Answer:
    return messages.error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def _context(folder: Path) -> ssl.SSLContext:
    """Returns a TLS context with a certificate for the hosts, and writes the certificate of its authority to a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    return context


async def _serve(folder: Path, port: int) -> None:
    proxy = Proxy(_context(folder), port)
    metadata = Metadata(proxy.tokens)

    async def machine(head: Head, body: bytes) -> Answer:
        entry = proxy.note(head, "metadata")
        answer = metadata.answer(head)
        entry.status, entry.bytes, entry.seconds = answer.status, answer.length, 0.0
        return answer

    servers = {
        "proxy": await asyncio.start_server(proxy.connected, "127.0.0.1", 0, limit=messages.LIMIT, backlog=500),
        "metadata": await messages.serve(machine),
        "control": await messages.serve(Control(proxy, metadata).respond),
    }
    print(json.dumps({name: messages.port_of(server) for name, server in servers.items()} | {"emulator": port}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


def main() -> None:
    """Serves until stdin is closed."""
    folder = Path(sys.argv[1])
    process, port = emulator.start(folder / "emulator.log", time.monotonic() + _START_SECONDS)
    try:
        asyncio.run(_serve(folder, port))
    finally:
        emulator.end(process)


if __name__ == "__main__":
    main()
