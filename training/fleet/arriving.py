"""The body of an upload on its way from the HTTP server to the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request

from cis490.blobs import pipeline
from cis490.blobs.pipeline import Stalled, Wire


class Arriving:
    """A body that is read from the first moment, a little ahead of whoever takes it.

    A server forgets what it has received of a body when the connection ends. So we take it at once, also while the
    lease is still being judged: of an upload that breaks off, what came is kept.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._ready: deque[bytes] = deque()
        self._came, self._taken = asyncio.Event(), asyncio.Event()
        self._received_bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self.is_detached = False
        """Whether the server has nothing to do with this body any more."""
        if "expect" not in request.headers:  # such a client sends its body when we begin to read, not before
            self._begin()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reading = self._reading or self._begin()
        while True:
            while self._ready:
                chunk = self._ready.popleft()
                self._taken.set()
                yield chunk
            if reading.done():
                reading.result()  # raises ClientDisconnect, if that was the end
                return
            self._came.clear()
            try:
                async with asyncio.timeout(pipeline.IDLE_S):
                    await self._came.wait()
            except TimeoutError as error:
                raise Stalled from error

    def detach(self) -> Wire | None:
        """The rest of the body, for the caller to receive from a duplicate of the connection's socket.

        This knows how uvicorn keeps a request (`RequestResponseCycle`), and says None where things are not as they are
        there: another server, TLS, a body that is all here. The server's parser will not see those bytes, so the
        connection is closed after the answer.
        """
        cycle: Any = getattr(self._request.receive, "__self__", None)
        parts = ("transport", "flow", "body", "more_body", "disconnected", "keep_alive")
        reading = self._reading
        if reading is None or reading.done() or not all(hasattr(cycle, name) for name in parts):
            return None
        connection = cycle.transport.get_extra_info("socket")
        # Other loops (Windows' proactor) may be in the middle of a receive that would take bytes from us.
        if not isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop) or connection is None:
            return None
        if cycle.transport.get_extra_info("sslcontext") is not None:
            return None
        first = b"".join(self._ready)
        left = int(self._request.headers["content-length"]) - self._received_bytes - len(cycle.body)
        if cycle.disconnected or not cycle.more_body or cycle.transport.is_closing() or left <= 0:
            return None
        duplicate = connection.dup()
        cycle.flow.pause_reading()
        first += bytes(cycle.body)
        cycle.body = bytearray()
        cycle.keep_alive = False
        self.is_detached = True
        self._ready.clear()
        reading.cancel()
        return Wire(first, duplicate, left, ClientDisconnect)

    async def stop(self) -> None:
        """Read no further; what is left is for whoever reads the request next."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _begin(self) -> asyncio.Task[None]:
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(self._ended)
        return self._reading

    def _ended(self, reading: asyncio.Task[None]) -> None:
        self._came.set()
        if not reading.cancelled():
            reading.exception()  # asked for here, so that nobody complains when the body is not read to its end

    async def _read(self) -> None:
        async for chunk in self._request.stream():
            # No pause between receiving and keeping: a task that is cancelled must not lose bytes.
            self._received_bytes += len(chunk)
            self._ready.append(chunk)
            self._came.set()
            while len(self._ready) > 1:
                self._taken.clear()
                await self._taken.wait()
