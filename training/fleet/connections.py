"""How the receiver speaks HTTP: uvicorn's settings, and bounds on what a request may say before its body.

The body has limits of its own, endpoint by endpoint; what comes before it is read by the server before any of our
code is asked, so its bounds are kept here: in size, in number and in time.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024
"""Of the request line and all headers: ours need less than 2 KiB."""
MAX_HEADERS = 100
HEAD_S = 30.0
"""From the connection's start, or a further request's first byte, to the end of the headers."""
BODY_S = 30.0
"""From the end of the headers to the end of the body, but for artifacts: `arriving` has a rule for those."""


class _TooMuch(Exception):
    """Raised inside the parser, which then gives up."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol; a head that is too large is 431, one that is none 400, and 408 what takes too long."""

    head_s, body_s = HEAD_S, BODY_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = self._unended_bytes = 0
        self._in_head, self._in_body = True, False
        self._refusal: tuple[int, str] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._in_body = False
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._unended_bytes > MAX_HEAD_BYTES:  # a header that does not end
            self._too_much()
            self.send_400_response("")
            return
        self._unended_bytes += len(data)
        super().data_received(data)
        if self._deadline is None:  # most requests are whole at once: no timer for those
            if self._in_head:
                self._await_head()
            elif self._in_body:
                self._await_body()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"cis490.abort": {"now": self.transport.abort}}
        self._head_bytes, self._unended_bytes, self._in_head = 0, 0, True

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        if self._in_head:  # what follows a body counts for nothing: uvicorn would put it among the headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_there()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._end_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        status, text = self._refusal or (400, "this is not an HTTP request")
        if self.transport.is_closing():
            return
        body = json.dumps({"error": text}).encode()
        self.transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._too_much()
            raise _TooMuch

    def _too_much(self) -> None:
        self._refusal = (
            431,
            f"the request's line and headers are more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers",
        )

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_s, self._too_slow)

    def _head_is_there(self) -> None:
        self._in_head = False
        self._end_deadline()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._refusal = 408, f"the request's headers were not there after {self.head_s:g} s"
        self.send_400_response("")

    def _await_body(self) -> None:
        self._deadline = self.loop.call_later(self.body_s, self._body_too_slow)

    def _body_too_slow(self) -> None:
        self._deadline = None
        is_artifact = self.scope["method"] == "PUT" and not self.cycle.response_complete
        if is_artifact or self.pipeline:  # with a pipeline it is we who do not read on
            self._await_body()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self._refusal = 408, f"the request's body was not there {self.body_s:g} s after its headers"
            self.send_400_response("")


def server_config(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's settings for the receiver; benchmarks and tests use the same."""
    return uvicorn.Config(
        app, http=BoundedHttp, loop="asyncio", ws="none", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=10,
    )  # fmt: skip
