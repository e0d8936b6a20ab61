"""A TCP proxy between worker and receiver: it records what the receiver answered, and breaks single exchanges.

It understands HTTP/1.1 with Content-Length in both directions, which is all that the two speak. One thread with its own
event loop; a fault is chosen anew for each request by the function `judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

Phase = Literal["claim", "heartbeat", "upload", "complete", "dataset", "other"]
Kind = Literal[
    "refuse", "lose-request", "lose-answer", "delay", "cut-request", "cut-answer", "pause", "duplicate"
]
BLOCK_BYTES = 16 * 1024
WATCH_S = 0.05
"""How often a waiting exchange looks whether its worker is still there."""


@dataclass(frozen=True)
class Fault:
    """What happens to one exchange.

    refuse: reset before anything is forwarded; lose-request: the request vanishes and the connection closes;
    lose-answer: the receiver answers, the worker hears nothing; cut-request, cut-answer: both sides are reset after
    `at` bytes of that body; delay: `seconds` before the request goes on; pause: `seconds` in the middle of the
    request's body, or before its answer if it has none; duplicate: the whole request is sent twice and the second
    answer is given.
    """

    kind: Kind
    at: int = 0
    seconds: float = 0.0


@dataclass
class Exchange:
    """One request, and what the receiver said to it (status 0: nothing)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    """Of the request; an upload's is not kept."""
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    sent_bytes: int = 0
    """Of the request's body, as forwarded to the receiver."""
    fault: Fault | None = None

    @property
    def phase(self) -> Phase:
        words = self.path.partition("?")[0].strip("/").split("/")
        if words[-1] == "claim":
            return "claim"
        if self.method == "PUT":
            return "upload"
        if words[-1] in ("heartbeat", "complete"):
            return "heartbeat" if words[-1] == "heartbeat" else "complete"
        return "dataset" if "dataset" in words else "other"

    @property
    def verb(self) -> str:
        """Last word of the path; `upload` for a PUT."""
        return "upload" if self.method == "PUT" else self.path.partition("?")[0].rpartition("/")[2]

    @property
    def job_id(self) -> str:
        words = self.path.partition("?")[0].strip("/").split("/")
        return words[2] if len(words) > 2 else ""

    @property
    def token(self) -> str | None:
        return self.headers.get("x-lease-token")


class _Broken(Exception):
    """Ends both connections with a reset."""


class Proxy:
    """Use as a context manager. `upstream` is a port of 127.0.0.1 or the path of a Unix socket."""

    def __init__(self, upstream: int | str, *, listener: socket.socket | None = None) -> None:
        self.judge: Callable[[Exchange], Fault | None] = lambda exchange: None
        self.exchanges: list[Exchange] = []
        """Every request that came, in the order of their beginnings; only ever appended to."""
        self._upstream = upstream
        self._socket = listener or socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._socket.close()

    def answered(self, verb: str) -> list[Exchange]:
        """The exchanges of that verb to which the receiver said 200 or 201."""
        return [one for one in list(self.exchanges) if one.verb == verb and one.status in (200, 201)]

    def struck(self) -> list[Exchange]:
        return [one for one in list(self.exchanges) if one.fault is not None]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a worker: exchange after exchange, each to a connection of its own."""
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError, asyncio.LimitOverrunError):
            try:
                while await self._exchange(reader, writer):
                    pass
            except _Broken:
                writer.transport.abort()
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, headers = _parsed(head)
        method, path, _ = line.split(" ", 2)
        size = int(headers.get("content-length", "0"))
        exchange = Exchange(method, path, headers)
        if method != "PUT":
            exchange.body = await reader.readexactly(size)
        fault = exchange.fault = self.judge(exchange)
        self.exchanges.append(exchange)
        kind = fault.kind if fault else None
        if kind in ("refuse", "lose-request"):
            raise _Broken
        if fault is not None and (kind == "delay" or (kind == "pause" and method != "PUT")):
            await asyncio.sleep(fault.seconds)
        if kind == "duplicate" and method == "PUT":
            exchange.body = await reader.readexactly(size)
        whole = exchange.body if method != "PUT" or kind == "duplicate" else None
        if kind == "duplicate":
            await self._forward(exchange, head, whole, size, reader, None)
        answer = await self._forward(exchange, head, whole, size, reader, writer)
        if method == "PUT":
            exchange.body = b""
        return answer

    async def _forward(
        self,
        exchange: Exchange,
        head: bytes,
        whole: bytes | None,
        size: int,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter | None,
    ) -> bool:
        """Send the request on and its answer back; False when the connection is of no further use."""
        try:
            upstream, up = await self._connected()
        except OSError:
            raise _Broken from None
        try:
            up.write(head)
            if whole is not None:
                up.write(whole)
                exchange.sent_bytes += len(whole)
                sending = None
            else:
                sending = asyncio.create_task(self._pour(exchange, size, reader, up))
            try:
                is_whole = await self._back(exchange, upstream, reader, client, sending)
            finally:
                if sending is not None:
                    sending.cancel()
                    with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                        await sending
            return is_whole and (sending is None or not sending.cancelled())
        finally:
            up.transport.abort()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection("127.0.0.1", self._upstream)

    async def _pour(
        self, exchange: Exchange, size: int, reader: asyncio.StreamReader, up: asyncio.StreamWriter
    ) -> None:
        """The body of an upload, block by block. Raises _Broken where the fault says so."""
        fault, left = exchange.fault, size
        here = 0
        while left:
            limit = min(BLOCK_BYTES, left)
            if fault is not None and fault.kind in ("cut-request", "pause") and here < fault.at:
                limit = min(limit, fault.at - here)
            block = await reader.read(limit)
            if not block:
                raise _Broken
            up.write(block)
            await up.drain()
            here += len(block)
            left -= len(block)
            exchange.sent_bytes += len(block)
            if fault is not None and here == fault.at and left:
                if fault.kind == "cut-request":
                    await asyncio.sleep(0.02)  # the receiver shall see these bytes before the reset
                    raise _Broken
                if fault.kind == "pause":
                    await asyncio.sleep(fault.seconds)

    async def _answer_head(
        self,
        upstream: asyncio.StreamReader,
        reader: asyncio.StreamReader,
        sending: asyncio.Task[None] | None,
    ) -> bytes:
        getting = asyncio.create_task(upstream.readuntil(b"\r\n\r\n"))
        try:
            while not getting.done():
                await asyncio.wait({getting, *([sending] if sending else [])}, timeout=WATCH_S,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                if sending is not None and sending.done():
                    if sending.exception() is not None and not getting.done():
                        raise _Broken
                    sending = None
                if (
                    reader.at_eof() and not getting.done()
                ):  # the worker was killed, and the receiver shall see it
                    raise _Broken
            return await getting
        except (OSError, EOFError):
            raise _Broken from None
        finally:
            getting.cancel()

    async def _back(
        self,
        exchange: Exchange,
        upstream: asyncio.StreamReader,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter | None,
        sending: asyncio.Task[None] | None,
    ) -> bool:
        head = await self._answer_head(upstream, reader, sending)
        line, headers = _parsed(head)
        size = int(headers.get("content-length", "0"))
        exchange.status = int(line.split(" ", 2)[1])
        fault = exchange.fault
        gone = client is None or (fault is not None and fault.kind == "lose-answer")
        body = b""
        is_json = "json" in headers.get("content-type", "")
        if client is not None and not gone:
            client.write(head)
        done = 0
        while done < size:
            limit = min(BLOCK_BYTES, size - done)
            if fault is not None and fault.kind == "cut-answer" and done < fault.at:
                limit = min(limit, fault.at - done)
            try:
                block = await upstream.read(limit)
            except OSError:
                raise _Broken from None
            if not block:
                raise _Broken
            done += len(block)
            body += block if is_json else b""
            if client is not None and not gone:
                client.write(block)
                await client.drain()
            if fault is not None and fault.kind == "cut-answer" and done >= fault.at:
                raise _Broken
        if is_json:
            with contextlib.suppress(ValueError):
                exchange.answer = json.loads(body)
        if gone and client is not None:
            raise _Broken
        return headers.get("connection", "").lower() != "close"


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}
