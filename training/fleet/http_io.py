"""Decoding requests and encoding answers: every refusal is a clear 4xx in JSON, none a 5xx."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cis490.files import is_safe_name
from training.fleet import wire, wire_headers
from training.fleet.peers import Peer

T = TypeVar("T")
PEER = "cis490.peer"
"""The key of a request's scope under which `access.Access` leaves the `Peer`."""
_DRAIN_BYTES = 8 * 1024 * 1024
_DRAIN_S = 2.0
NO_PAGE = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Of every answer that is no page: a browser that is led to one shows text, and nothing in it runs."""
_NO_PAGE = [(key.encode(), value.encode()) for key, value in NO_PAGE.items()]


class Problem(Exception):
    """A refusal: its HTTP status, the sentence for a person, and further keys of the answer."""

    def __init__(self, status: int, error: str, **extra: Any) -> None:
        super().__init__(error)
        self.status, self.error, self.extra = status, error, extra

    def response(self) -> Response:
        return answer({**self.extra, "error": self.error}, self.status)


class _Json(Response):
    """A response whose headers are known: what Starlette would find out about each anew."""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *_NO_PAGE,
        ]


def answer(body: Any, status: int = 200) -> Response:
    return _Json(msgspec.json.encode(body), status)


async def read_body(request: Request, limit_bytes: int = wire.MAX_BODY_BYTES) -> bytes:
    """The whole body, or 413 as soon as it is larger than the limit."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:  # as request.stream() does, without its cost
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "the connection ended before the whole body was there")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > limit_bytes:
            raise Problem(413, f"the request body is larger than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


async def decode(
    request: Request, kind: type[T], *, empty_ok: bool = False, limit_bytes: int = wire.MAX_BODY_BYTES
) -> T:
    """The JSON body as `kind`, or 400 with the path of what is wrong."""
    body = await read_body(request, limit_bytes)
    if empty_ok and not body.strip():
        return kind()
    return decoded(body, kind)


def decoded(body: bytes, kind: type[T]) -> T:
    """JSON as `kind`, or 400 with the path of what is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the JSON body does not fit: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error


def peer_of(request: Request) -> Peer:
    """Who sends this. Raises KeyError, a defect, when nobody has asked: nothing is open by omission."""
    return cast(Peer, request.scope[PEER])


def host_of(request: Request) -> str:
    """The host that speaks: its certificate's, or from `X-Lab-Host` where identities are not checked."""
    name, peer = one_header(request, wire_headers.HEADER_HOST), peer_of(request)
    if peer.role != "open":
        return _certified_host(peer, name)
    if not name:
        raise Problem(
            400, f"the header {wire_headers.HEADER_HOST} is missing: a worker sends its host name in it"
        )
    if not is_safe_name(name):
        raise Problem(
            400, f"{wire_headers.HEADER_HOST} must match [A-Za-z0-9._-]{{1,64}} with no leading dot"
        )
    return name


def _certified_host(peer: Peer, named: str) -> str:
    if peer.role != "host":
        raise Problem(403, f"this is for hosts; the certificate says {peer}")
    if named and named != peer.name:
        raise Problem(
            403,
            f"{wire_headers.HEADER_HOST} says {named[:64]!r}, and the certificate host {peer.name}: "
            "a host speaks for itself alone",
        )
    return peer.name


def token_of(request: Request) -> str | None:
    return one_header(request, wire_headers.HEADER_LEASE_TOKEN) or None


def one_header(request: Request, name: str) -> str:
    """A header's value; "" when absent, 400 when sent twice (which one would count?)."""
    key = name.lower().encode("latin-1")  # the server has lowered the names of headers
    values = [value.decode("latin-1") for found, value in request.scope["headers"] if found == key]
    if len(values) > 1:
        raise Problem(400, f"the header {name} was sent {len(values)} times; send it once")
    return values[0].strip(" \t") if values else ""  # nothing else is white space in a header


@dataclass(frozen=True, slots=True)
class OperatorTokens:
    """What opens the operator's endpoints. During a rotation the former one does too."""

    current: str = field(repr=False)
    former: str = field(default="", repr=False)

    @property
    def all(self) -> tuple[str, ...]:
        """Those that count, the current one first."""
        return (self.current, self.former) if self.former else (self.current,)

    def fits(self, given: bytes) -> bool:
        """In a time that does not tell where they differ, nor which of them fits."""
        found = _hash(given)
        is_current = hmac.compare_digest(found, _hash(self.current.encode("utf-8")))
        is_former = hmac.compare_digest(found, _hash(self.former.encode("utf-8"))) and self.former != ""
        return is_current or is_former


def require_operator(request: Request, expected: OperatorTokens | None) -> str:
    """Only with the operator token; what the audit trail calls this operator. Without a configured token the
    operator endpoints are closed."""
    peer = peer_of(request)
    if peer.role not in ("open", "operator", "session"):  # refused before, by `access`
        raise Problem(403, f"this is for operators; the certificate says {peer}", ok=False)
    if expected is None:
        raise Problem(
            403,
            "operator control is disabled: start the receiver with a non-empty CIS490_OPERATOR_TOKEN",
            ok=False,
        )
    given = one_header(request, wire_headers.HEADER_OPERATOR_TOKEN)
    if not given or not expected.fits(given.encode("latin-1")):
        raise Problem(401, f"the {wire_headers.HEADER_OPERATOR_TOKEN} header is missing or wrong", ok=False)
    return actor_of(request)


def actor_of(request: Request) -> str:
    """What the audit trail calls the operator that sends this."""
    peer = peer_of(request)
    return f"operator {peer.name}" if peer.role == "operator" else "operator"


def _hash(token: bytes) -> bytes:
    # equal lengths whatever was sent, and bytes: compare_digest refuses non-ASCII text
    return hashlib.sha256(token).digest()


def content_length_of(request: Request) -> int:
    """The declared size of the body in bytes."""
    text = one_header(request, "content-length")
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(400, "Content-Length is missing or not a number: send the artifact with its size")
    return int(text)


async def drain(request: Request) -> None:
    """Read for a moment what a refused client still sends, so that it gets to see the answer."""
    if "expect" in request.headers:
        return  # it waits for a word before it sends anything
    try:
        await asyncio.wait_for(_read_on(request), _DRAIN_S)
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end before
        return


async def _read_on(request: Request) -> None:
    left = _DRAIN_BYTES
    async for part in request.stream():
        left -= len(part)
        if left < 0:
            return
