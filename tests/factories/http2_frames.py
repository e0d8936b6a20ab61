"""Just enough of HTTP/2 (RFC 9113) to send requests that no proper client sends: frames, headers as they are."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Header = tuple[str, str]


@dataclass(frozen=True)
class Ended:
    """How a stream ended: its body, and whether the server broke it off."""

    body: bytes
    is_reset: bool


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def fields(headers: Sequence[Header]) -> bytes:
    """As "literal header fields without indexing, new name" (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    out, left = bytearray([127]), len(raw) - 127
    while left >= 128:
        out.append(left % 128 + 128)
        left //= 128
    return bytes(out) + bytes([left]) + raw


def request(sock: socket.socket, headers: Sequence[Header], body: bytes = b"") -> Ended:
    """Send one request on a fresh connection, and read what its stream brings."""
    flags = END_HEADERS | (0 if body else END_STREAM)
    text = PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, flags, 1, fields(headers))
    sock.sendall(text + (frame(DATA, END_STREAM, 1, body) if body else b""))
    found = b""
    for kind, flags, stream, payload in _frames(sock):
        if kind == GOAWAY or (kind == RST_STREAM and stream == 1):
            return Ended(found, True)
        if stream == 1 and kind == DATA:
            found += payload
        if stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM:
            return Ended(found, False)
    return Ended(found, True)


def _frames(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    with sock.makefile("rb") as file:
        while len(head := file.read(9)) == 9:
            payload = file.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload
