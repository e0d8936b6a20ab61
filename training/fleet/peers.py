"""Who sends a request, and which endpoints are open to whom. Pure.

With `--worker-auth mtls` an identity is the one URI in a client certificate, `spiffe://FLEET/ROLE/NAME`, as the proxy
hands it on. With `header` (loopback alone) everybody is `OPEN` and endpoints judge by header, as the first design did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["host", "operator", "reader", "session", "nobody", "open"]
"""`session`: a browser that logged in with the operator token. `nobody`: no certificate; `open`: not asked for one."""
Site = Literal["join", "workers", "operators", "none"]
"""The proxy's site that a request came in by; `none`: not through the proxy."""
Who = Literal["worker", "operator", "reader", "member", "joiner", "anyone"]
"""Of an endpoint: hosts; operators with their token; readers and operators; whoever has a certificate; whoever has a
join token (or an expired certificate) and no certificate; everybody."""

WorkerAuth = Literal["header", "mtls"]
"""How a host proves its name: not at all (on loopback alone), or by the certificate that the proxy hands on."""

ROLES = ("host", "operator", "reader")
"""Roles that a certificate can carry."""
_URI = re.compile(r"spiffe://([a-z0-9.-]{1,63})/(host|operator|reader)/([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})")


_ALLOWED: dict[Who, tuple[Role, ...]] = {
    "worker": ("host",),
    "operator": ("operator", "session"),
    "reader": ("reader", "operator", "session"),
    "member": ("host", "reader", "operator", "session"),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """The sender of one request."""

    role: Role
    name: str = ""
    """Of the host, operator or reader; "" without a certificate."""
    site: Site = "none"
    serial: str = ""
    """Of the certificate, lower-case hex."""
    not_after_s: float = 0.0
    """When the certificate ends, UTC, seconds since the epoch."""
    is_in_manifest: bool = True
    """Of a host: whether the manifest in force admits it."""
    fingerprint: str = ""
    """sha256 of the certificate, 64 hex digits."""

    def __str__(self) -> str:
        return f"{self.role} {self.name}".rstrip()


OPEN = Peer("open")
"""Identities are not checked: the receiver listens on loopback and trusts what its machine's processes say."""


class Unidentified(Exception):
    """Who sends a request cannot be made out; the text says what was found and expected."""


@dataclass(frozen=True, slots=True)
class Certified:
    """What a good certificate says of whoever holds its key. Whether it counts now is asked on every request."""

    role: Role
    name: str
    serial: str
    """Lower-case hex."""
    not_before_s: float
    not_after_s: float
    """UTC, seconds since the epoch."""
    fingerprint: str = ""
    """sha256 of the certificate, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is refused before any handler sees it."""

    status: Literal[401, 403]
    error: str


def uri_of(fleet: str, role: str, name: str) -> str:
    """The identity as certificates write it (SPIFFE ID)."""
    return f"spiffe://{fleet}/{role}/{name}"


def parse_uri(uri: str) -> tuple[str, str, str] | None:
    """(fleet, role, name), or None when it is no identity of ours."""
    found = _URI.fullmatch(uri)
    return None if found is None else (found[1], found[2], found[3])


def denied(who: Who, peer: Peer) -> Denied | None:
    """None: the endpoint may look at this request. The operator's token is the endpoint's own second question."""
    if peer.role == "open" or who == "anyone":
        return None
    if who == "joiner":
        return (
            None
            if peer.site == "join"
            else Denied(403, "joining takes place at the join site, without a certificate")
        )
    if peer.site == "join":
        return Denied(403, "only joining takes place at this address; use the one in the credentials")
    if peer.role == "nobody":
        return Denied(401, "no identity: a client certificate of this fleet is needed")
    if peer.role == "host" and not peer.is_in_manifest:
        return Denied(
            403, f"the manifest does not name the host {peer.name}; add it there, then cis490-jobs reload"
        )
    allowed = _ALLOWED[who]
    if peer.role in allowed:
        return None
    return Denied(403, f"this is for {_words(allowed)}; the certificate says {peer}")


def _words(roles: tuple[Role, ...]) -> str:
    return " and ".join(f"{role}s" for role in roles if role != "session")
