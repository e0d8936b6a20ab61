"""Decoding requests and encoding answers: every refusal is a clear 4xx in JSON, none a 5xx."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cis490.files import is_safe_name
from training.fleet import wire, wire_headers

T = TypeVar("T")
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


def host_of(request: Request) -> str:
    """The host that speaks, from `X-Lab-Host`."""
    name = one_header(request, wire_headers.HEADER_HOST)
    if not name:
        raise Problem(
            400, f"the header {wire_headers.HEADER_HOST} is missing: a worker sends its host name in it"
        )
    if not is_safe_name(name):
        raise Problem(
            400, f"{wire_headers.HEADER_HOST} must match [A-Za-z0-9._-]{{1,64}} with no leading dot"
        )
    return name


def token_of(request: Request) -> str | None:
    return one_header(request, wire_headers.HEADER_LEASE_TOKEN) or None


def one_header(request: Request, name: str) -> str:
    """A header's value; "" when absent, 400 when sent twice (which one would count?)."""
    key = name.lower().encode("latin-1")  # the server has lowered the names of headers
    values = [value.decode("latin-1") for found, value in request.scope["headers"] if found == key]
    if len(values) > 1:
        raise Problem(400, f"the header {name} was sent {len(values)} times; send it once")
    return values[0].strip(" \t") if values else ""  # nothing else is white space in a header


def require_operator(request: Request, expected: str | None) -> None:
    """Only with the operator token. Without a configured one the operator endpoints are closed."""
    if not expected:
        raise Problem(
            403,
            "operator control is disabled: start the receiver with a non-empty CIS490_OPERATOR_TOKEN",
            ok=False,
        )
    given = one_header(request, wire_headers.HEADER_OPERATOR_TOKEN)
    if not given or not hmac.compare_digest(_hash(given.encode("latin-1")), _hash(expected.encode("utf-8"))):
        raise Problem(401, f"the {wire_headers.HEADER_OPERATOR_TOKEN} header is missing or wrong", ok=False)


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
