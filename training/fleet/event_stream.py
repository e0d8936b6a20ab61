"""One stream of server-sent events: replay from the audit trail, then live, without a gap and without a repeat.

The order makes it so: listening begins first, then the audit trail is read to its end, then what came in meanwhile
is told, less what had been read. What a row numbered higher than the last one read can be is committed later, and
so it comes through the bus.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cis490.logs import event
from training.fleet import audit_trail
from training.fleet.coordinator import Coordinator
from training.fleet.event_bus import PAGE, Event, Subscription, Wants
from training.fleet.http_io import NO_PAGE
from training.fleet.peers import OPEN, Peer

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
"""Of silence, after which a comment says that the stream lives."""
RETRY_MS = 2000
"""How long a browser waits before it connects again."""
STALL_S = 30.0
"""A reader that takes nothing for so long is hung up on: meanwhile its events would wait in memory."""
ENDING_S = 1.0
"""What is left to be sent when the receiver stops has this long."""
ABORT = "cis490.abort"
"""The ASGI extension with which `training.fleet.connections` lets a response hang up at once."""

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold events back
    **NO_PAGE,
}


class EventStream(Response):
    """The response; it ends when the client goes, the receiver stops, or the client does not keep up."""

    def __init__(
        self, app: Coordinator, wants: Wants, after: int | None, *, most_replayed: int, peer: Peer = OPEN
    ) -> None:
        """Of a `peer` that is revoked, or whose certificate ends, the stream ends too."""
        super().__init__(headers=_HEADERS)
        self._peer = peer
        del self.headers["content-length"]  # the empty body's
        self._app, self._wants, self._after, self._most_replayed = app, wants, after, most_replayed

    @staticmethod
    def head() -> Response:
        """The answer to HEAD."""
        return Response(headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._app.event_streams += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._app.event_streams -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = await self._app.events.subscribe(self._wants)
        with self._app.open_requests.enter(self._peer, listener.end):
            await self._tell(listener, scope, receive, send)

    async def _tell(self, listener: Subscription, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(listener, send))
        leaving = asyncio.create_task(_left(receive))
        listener.on_end = lambda: asyncio.get_running_loop().call_later(ENDING_S, sending.cancel)
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not sending.cancelled():
                await sending
            elif not leaving.done() and (hang_up := scope.get("extensions", {}).get(ABORT)) is not None:
                hang_up["now"]()  # its last bytes would wait for a reader that takes none
        finally:
            listener.on_end = lambda: None
            listener.close()
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})

    async def _send_all(self, listener: Subscription, send: Send) -> None:
        """The whole response. Cancelled when the reader stalls: then it has no proper end."""
        first, replay = await self._beginning(listener)
        await _passed(send({"type": "http.response.start", "status": 200, "headers": self.raw_headers}))
        await _body(send, first)
        told = listener.start
        try:
            async for page in replay:
                await _body(send, b"".join(item.frame for item in page if self._wants(item)))
                told = page[-1].seq or told
            while not listener.over:
                found = await listener.take(KEEP_ALIVE_S)
                news = [item for item in found if item.seq is None or item.seq > told]
                if listener.behind:
                    await _body(send, _reset("this reader did not keep up: events were left out", None))
                    break
                if news:
                    await _body(send, b"".join(item.frame for item in news))
                elif not found and not listener.over:
                    await _body(send, b": still here\n\n")
        except (OSError, sqlite3.Error) as error:  # the status has been sent: all that is left is to end
            event(log, "events.stream_broken", level=logging.ERROR, error=repr(error))
        await _passed(send({"type": "http.response.body", "body": b"", "more_body": False}))

    async def _beginning(self, listener: Subscription) -> tuple[bytes, AsyncIterator[list[Event]]]:
        """What is sent first, and what is then read from the audit trail."""
        queue, after = self._app.queue, self._after
        reason = None
        if after is None:
            after = listener.start
        else:
            reason, newest = await asyncio.to_thread(
                audit_trail.why_no_replay, queue, after, self._most_replayed
            )
            after = after if reason is None else newest
        hello = Event("hello", {"seq": after, "at": queue.clock.wall_s()}, after).frame
        start = b"retry: %d\n\n" % RETRY_MS + hello + (b"" if reason is None else _reset(reason, after))
        return start, self._replayed(after)

    async def _replayed(self, after: int) -> AsyncIterator[list[Event]]:
        """Pages of what was committed by now, after this `seq`."""
        while True:
            rows = await asyncio.to_thread(audit_trail.after, self._app.queue, after, PAGE)
            if rows:
                yield [Event(row["kind"], row, row["seq"]) for row in rows]
            if len(rows) < PAGE:
                return
            after = rows[-1]["seq"]


def _reset(reason: str, seq: int | None) -> bytes:
    return Event("reset", {"reason": reason, "seq": seq}, seq).frame


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(send: Send, body: bytes) -> None:
    if body:
        await _passed(send({"type": "http.response.body", "body": body, "more_body": True}))


async def _passed(sending: Awaitable[None]) -> None:
    """Wait until the server has taken it; a reader that takes nothing for STALL_S is given up."""
    try:
        async with asyncio.timeout(STALL_S):
            await sending
    except TimeoutError:
        raise asyncio.CancelledError from None
