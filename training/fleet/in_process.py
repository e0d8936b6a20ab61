"""The HTTP interface, asked from within the receiver's own process: what the pages are made from.

A page is a client like any other: it sees what `GET /v1/...` answers and nothing else, so page, command line and
interface cannot disagree. Only the socket is left out.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.types import ASGIApp, Message, Scope

from training.fleet.http_io import PEER
from training.fleet.peers import Peer
from training.fleet.wire_headers import HEADER_OPERATOR_TOKEN

LARGE_BYTES = 64 * 1024
"""An answer of so many bytes is read on another thread: the loop has others to serve meanwhile."""


class Refusal(Exception):
    """An answer other than 2xx: its status and its JSON body."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("error") or f"status {status}"))
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class Viewer:
    """What a page needs to know of who looks at it."""

    name: str
    """`operator ann` or `reader bob` by the certificate; "" without one."""
    may_read: bool
    """Without a login."""
    may_log_in: bool


def viewer_of(scope: Mapping[str, Any]) -> Viewer:
    """Who looks at the page that is asked for with this scope."""
    peer: Peer = scope[PEER]
    return Viewer(name_of(scope), peer.role != "nobody", peer.role != "reader")


def name_of(scope: Mapping[str, Any]) -> str:
    """Whom the certificate names that this request came with; "" without one, and before anybody has looked."""
    peer: Peer | None = scope.get(PEER)
    return str(peer) if peer is not None and peer.name else ""


class InProcess:
    """Sends requests to `app`. `operator_token` is what the receiver was started with; None: no operator verbs."""

    def __init__(self, app: ASGIApp, operator_token: str | None, peer: Peer | None = None) -> None:
        """`peer` is for whom it asks; None: for nobody yet (`seen_by`), and every answer is a refusal."""
        self._app, self._token, self._peer = app, operator_token, peer or Peer("nobody")

    def seen_by(self, scope: Mapping[str, Any]) -> InProcess:
        """The same for the sender of the request with this scope: it may see what that one may, and no more."""
        return InProcess(self._app, self._token, scope[PEER])

    async def get(self, path: str, /, **query: str | int | float) -> dict[str, Any]:
        """The JSON answer of `GET path?query`. Raises Refusal."""
        return await self._ask("GET", path, urlencode(query), b"", ())

    async def post(self, path: str, body: Mapping[str, Any] | None = None, /) -> dict[str, Any]:
        """The JSON answer of `POST path`, sent as the operator. Raises Refusal.

        The caller has made sure that the person is one.
        """
        headers = (
            () if self._token is None else ((HEADER_OPERATOR_TOKEN.lower().encode(), self._token.encode()),)
        )
        return await self._ask("POST", path, "", msgspec.json.encode(dict(body or {})), headers)

    async def _ask(
        self, method: str, path: str, query: str, body: bytes, headers: tuple[tuple[bytes, bytes], ...]
    ) -> dict[str, Any]:
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": quote(path).encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"in-process"), (b"content-type", b"application/json"), *headers],
            "client": None, "server": None, PEER: self._peer,
        }  # fmt: skip
        parts: list[bytes] = []
        status = 0
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        answered = b"".join(parts) or b"{}"
        decode = functools.partial(msgspec.json.decode, answered)
        found: dict[str, Any] = decode() if len(answered) < LARGE_BYTES else await asyncio.to_thread(decode)
        if not 200 <= status < 300:
            raise Refusal(status, found)
        return found
