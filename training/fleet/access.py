"""Who sends a request, and may they: the outermost layer of the receiver, before any route is looked for.

Every request leaves here with a `Peer` in its scope (`http_io.peer_of`), or is refused. An endpoint without a peer is
a defect, so a way around this layer ends in an error and not in an open door. docs/design/access.md has the reasons.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cis490.clock import Clock, SystemClock
from cis490.logs import event
from training.fleet import wire_headers
from training.fleet.endpoint import Endpoint
from training.fleet.http_io import PEER, answer, drain
from training.fleet.peers import OPEN, Certified, Denied, Peer, Site, Unidentified, Who, denied
from training.fleet.quotas import Exceeded, Quotas

log = logging.getLogger(__name__)
OnDenied = Callable[[Request, Denied], Awaitable[Response]]

_CERTIFICATE = wire_headers.HEADER_PEER_CERTIFICATE.lower().encode()
_SITE = wire_headers.HEADER_PEER_SITE.lower().encode()
_TOLD_EVERY_S = 60.0
"""How often a host that meets the same quota again and again is mentioned in the log."""
_OF_THE_PROXY = b"x-fleet-peer-"
_SITES: Mapping[bytes, Site] = {b"join": "join", b"workers": "workers", b"operators": "operators"}
_BEHIND_A_PROXY = Denied(
    403,
    "this request came through the proxy, and the receiver does not look at identities (--worker-auth header): "
    "start it with --worker-auth mtls --ca-dir DIR and a Unix socket",
)


class Identify(Protocol):
    """Who sends the request with these headers. Raises Unidentified."""

    def __call__(self, scope: Scope) -> Peer: ...


class ByHeader:
    """`--worker-auth header`: everybody on this machine is believed, and nobody comes from elsewhere."""

    def __call__(self, scope: Scope) -> Peer:
        return OPEN


class ByCertificate:
    """`--worker-auth mtls`: by the certificate that the proxy hands on; without one at most a login of the pages."""

    def __init__(
        self,
        read: Callable[[bytes], Certified],
        *,
        denied_because: Callable[[str, str, str], str | None],
        is_admitted: Callable[[str], bool],
        wall_s: Callable[[], float],
        has_session: Callable[[Scope], bool],
    ) -> None:
        """`read` raises Unidentified; `denied_because(role, name, serial)` is the deny list."""
        self._read, self._denied_because, self._is_admitted = read, denied_because, is_admitted
        self._wall_s, self._has_session = wall_s, has_session

    def __call__(self, scope: Scope) -> Peer:
        site, certificate = _from_proxy(scope)
        if not certificate:
            is_session = site == "operators" and self._has_session(scope)
            return Peer("session" if is_session else "nobody", site=site)
        found = self._read(certificate)
        now_s = self._wall_s()
        if not found.not_before_s <= now_s <= found.not_after_s:
            raise Unidentified(_outside_dates(found, now_s))
        reason = self._denied_because(found.role, found.name, found.serial)
        if reason is not None:
            raise Unidentified(f"the certificate of {found.role} {found.name} was revoked: {reason}")
        return Peer(
            found.role, found.name, site, found.serial, found.not_after_s,
            found.role != "host" or self._is_admitted(found.name), found.fingerprint,
        )  # fmt: skip


def _from_proxy(scope: Scope) -> tuple[Site, bytes]:
    """(site, certificate); ("none", b"") when the request did not come through the proxy."""
    sites, certificates = [], []
    for name, value in scope["headers"]:
        if name == _SITE:
            sites.append(value)
        elif name == _CERTIFICATE:
            certificates.append(value)
    if not sites and not certificates:
        return "none", b""
    site = _SITES.get(sites[0]) if len(sites) == 1 else None
    if site is None or len(certificates) > 1:
        raise Unidentified(
            "the proxy did not say once by which of its sites this came; see etc/Caddyfile.example"
        )
    return site, certificates[0].strip() if certificates else b""


def _outside_dates(found: Certified, now_s: float) -> str:
    whose = f"the certificate of {found.role} {found.name}"
    if now_s < found.not_before_s:
        return f"{whose} is not valid yet, for {found.not_before_s - now_s:.0f} s: compare the clocks"
    return f"{whose} expired {(now_s - found.not_after_s) / 3600:.1f} h ago: it is renewed at the join site"


class Doors:
    """Which endpoints a path names, by the very patterns that the router looks with."""

    def __init__(self, endpoints: Sequence[tuple[Endpoint, re.Pattern[str]]]) -> None:
        self._all = [(item.method, pattern, item.who) for item, pattern in endpoints]
        self._exact: dict[tuple[str, str], Who] = {}
        for item, _ in endpoints:
            if "{" not in item.path:
                self._exact.setdefault((item.method, item.path), item.who)

    def who(self, method: str, path: str) -> Who | None:
        """Who may ask for this, by the first endpoint that fits; None: it is none of the interface."""
        if method == "HEAD":
            method = "GET"
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact
        return next(
            (who for known, pattern, who in self._all if known == method and pattern.match(path)), None
        )


def page_denied(peer: Peer, path: str) -> Denied | None:
    """Of a path that is no endpoint: the pages, their files, and whatever is not there at all."""
    is_login = path == "/login"
    if (is_login or path.startswith("/static/")) and peer.role == "nobody" and peer.site == "operators":
        return None
    if is_login:
        return denied("operator", peer)
    return denied("member" if path.startswith("/v1/") else "reader", peer)


class Access:
    """ASGI middleware. A request from within the process brings its peer along (`in_process`)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        identify: Identify,
        doors: Doors,
        on_denied: OnDenied,
        quotas: Quotas | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`quotas` are those of hosts with a certificate; None: there are none."""
        self._app, self._identify, self._doors, self._on_denied = app, identify, doors, on_denied
        self._quotas, self._clock = quotas or Quotas(), clock or SystemClock()
        self._trusts_all = isinstance(identify, ByHeader)
        self._told_s: dict[tuple[str, str], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._trusts_all:  # the way of every claim on loopback: no call more than it needs
            if PEER not in scope:
                scope[PEER] = OPEN
                if _OF_THE_PROXY in b"\n".join([header[0] for header in scope["headers"]]):
                    await self._refuse(_BEHIND_A_PROXY, scope, receive, send)
                    return
            await self._app(scope, receive, send)
        else:
            refusal = self._judge(scope)
            if refusal is not None:
                await self._refuse(refusal, scope, receive, send)
            elif scope[PEER].role == "host":
                await self._within_quota(scope[PEER].name, scope, receive, send)
            else:
                await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> Denied | None:
        """Puts the peer into the scope; None when it may go on."""
        who = self._doors.who(scope["method"], scope["path"])
        peer = cast(Peer | None, scope.get(PEER))
        if peer is None:
            try:
                peer = self._identify(scope)
            except Unidentified as error:  # also where everybody may ask: it claims to be somebody
                scope[PEER] = Peer("nobody")
                return Denied(401, str(error))
            scope[PEER] = peer
        return page_denied(peer, scope["path"]) if who is None else denied(who, peer)

    async def _refuse(self, refusal: Denied, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await drain(request)  # a client that is still sending would not look at the answer
        response = await self._on_denied(request, refusal)
        await response(scope, receive, send)

    # -- quotas

    async def _within_quota(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        exceeded = self._quotas.request(host, self._clock.now_s())
        if exceeded is not None:
            await self._slow_down(host, exceeded, scope, receive, send)
        elif scope["method"] == "PUT":  # the one thing that is put is an artifact
            await self._upload(host, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _upload(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        announced = _announced_bytes(scope)
        exceeded = self._quotas.begin_upload(host, announced, self._clock.now_s())
        if exceeded is not None:
            await self._slow_down(host, exceeded, scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._quotas.end_upload(host, announced, received, self._clock.now_s())

    async def _slow_down(
        self, host: str, exceeded: Exceeded, scope: Scope, receive: Receive, send: Send
    ) -> None:
        now_s, key = self._clock.now_s(), (host, exceeded.quota)
        if now_s - self._told_s.get(key, -_TOLD_EVERY_S) >= _TOLD_EVERY_S:
            self._told_s[key] = now_s
            event(log, "quota.exceeded", level=logging.WARNING, host=host, quota=exceeded.quota)
        await drain(Request(scope, receive))
        response = answer({"error": exceeded.error, "quota": exceeded.quota}, exceeded.status)
        if exceeded.retry_s is not None:
            response.headers["Retry-After"] = str(exceeded.retry_s)
        await response(scope, receive, send)


def _announced_bytes(scope: Scope) -> int:
    """Of the body, as far as its header can be read; the handler refuses what cannot."""
    for name, value in scope["headers"]:
        if name == b"content-length" and len(value) <= 18 and value.isdigit():
            return int(value)
    return 0
