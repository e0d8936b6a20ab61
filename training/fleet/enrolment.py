"""Who gets a certificate, and with what proof: decisions over join tokens, requests and former certificates. Pure.

Time and serial numbers are passed in. A refusal is a value: its status, a sentence that names the command that helps,
and its code (`training.fleet.codes`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cis490.pki import certificates as pki
from cis490.pki.authority import Authority
from cis490.pki.certificates import PkiError
from training.fleet.peer_certificates import certified
from training.fleet.peers import ROLES, Unidentified, uri_of

TOKEN_LIFE = timedelta(minutes=15)
CERTIFICATE_LIFE = timedelta(days=30)
LATE = timedelta(days=30)
"""After its certificate ended, a machine may still renew for so long, by proof of its key."""
KEPT = timedelta(days=90)
"""Rows of tokens and certificates that ended are kept for so long: they explain refusals, and list what was."""
LATE_CONTEXT = b"cis490-renew-late-1\n"
"""What the former key signs is this, then the request: it cannot be taken for a signature made for anything else."""
MAX_REASON_CHARS = 200
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Refused:
    """No certificate: why, and what to type."""

    status: int
    error: str
    code: str


@dataclass(frozen=True, slots=True)
class Token:
    """A row of `join_tokens`. Times are UTC, seconds since the epoch."""

    token_id: str
    secret_sha256: str
    role: str
    name: str
    expires_at: float
    used_at: float | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate that somebody asks for: the identity, and the public key of a request that was checked."""

    role: str
    name: str
    public_key: ec.EllipticCurvePublicKey
    key_id: str

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


@dataclass(frozen=True, slots=True)
class Former:
    """A certificate of this fleet that somebody shows instead of a token."""

    role: str
    name: str
    serial: str
    not_after: datetime
    key_id: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What will be issued. Written down before it is signed, so that no certificate exists that no table knows."""

    request: Request
    serial: int
    now: datetime
    lifetime: timedelta

    @property
    def not_after(self) -> datetime:
        return self.now + self.lifetime

    def row(self) -> dict[str, Any]:
        """The columns of `certificates`, but `how`."""
        return {
            "serial": f"{self.serial:x}",
            "role": self.request.role,
            "name": self.request.name,
            "key_id": self.request.key_id,
            "not_before": (self.now - pki.BACKDATED).timestamp(),
            "not_after": self.not_after.timestamp(),
            "issued_at": self.now.timestamp(),
        }


def command_for(role: str, name: str) -> str:
    """What an operator types so that this identity can join."""
    if role == "host":
        return f"cis490-jobs hosts add {name}"
    return f"cis490-jobs operators add {name}{' --reader' if role == 'reader' else ''}"


def name_fault(role: str, name: str) -> Refused | None:
    """Why nobody can be enrolled under this name; None: one can."""
    if role not in ROLES:
        return Refused(404, f"no role {role[:40]!r}: a certificate is for a {', a '.join(ROLES)}", "E301")
    if not _NAME.fullmatch(name):
        text = f"found the name {name[:80]!r}, expected [A-Za-z0-9._-]{{1,64}} with no leading dot"
        return Refused(404, text, "E301")
    return None


# -- secrets


def secret_sha256(secret: str) -> str:
    """What is stored of a token's secret; 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def token_id(sha256: str) -> str:
    """By which a token is looked up, named in messages and in the audit trail: no secret."""
    return sha256[:_ID_DIGITS]


def is_secret(token: Token, sha256: str) -> bool:
    """In constant time, whether the secret of this digest is the token's."""
    return hmac.compare_digest(token.secret_sha256.encode(), sha256.encode())


# -- the proofs


def read_request(role: str, name: str, csr_pem: str) -> Request | Refused:
    """The request, if it was made with the key that it names. What else it asks for is ignored."""
    fault = name_fault(role, name)
    if fault is not None:
        return Refused(400, fault.error, fault.code)
    try:
        key = pki.read_request(csr_pem)
    except PkiError as error:
        return Refused(400, f"csr_pem cannot be used: {error}", "E302")
    return Request(role, name, key, pki.key_id(key))


def unknown_token(role: str, name: str) -> Refused:
    """The secret is none of ours. The name is whoever asks' own word, so it is repeated only if it can be one."""
    text = "this receiver gave out no such join token: it is another fleet's, or was copied wrongly"
    command = command_for("host", "NAME") if name_fault(role, name) else command_for(role, name)
    return Refused(403, f"{text}. Make a new one: {command}", "E303")


def judge_token(token: Token | None, sha256: str, asked: Request, now: datetime) -> Refused | None:
    """May whoever knows this secret have this certificate? The same key may ask again while the token lasts."""
    if token is None or not is_secret(token, sha256):
        return unknown_token(asked.role, asked.name)
    again = command_for(token.role, token.name)
    if (token.role, token.name) != (asked.role, asked.name):
        text = f"this join token is for the {token.role} {token.name}, not for the {asked}"
        return Refused(403, f"{text}. Make one: {command_for(asked.role, asked.name)}", "E304")
    if token.key_id is not None and token.key_id != asked.key_id:
        text = f"this join token was used already, by another key, at {_when(token.used_at)}"
        hint = f"Nobody but you had it? Make a new one: {again}. Else first: {_revoke_command(token)}"
        return Refused(403, f"{text}. {hint}", "E305")
    if now.timestamp() >= token.expires_at:
        text = f"this join token ended at {_when(token.expires_at)}: one lasts {_minutes(TOKEN_LIFE)} minutes"
        if not token.expires_at:
            text = f"this join token ended when the {token.role} {token.name} was revoked"
        return Refused(403, f"{text}. Make a new one: {again}", "E306")
    return None


def judge_late(
    authority: Authority, certificate_pem: str, csr_pem: str, signature: str, now: datetime
) -> Former | Refused:
    """The certificate that is shown, if its key signed the request and it ended at most `LATE` ago."""
    former = _former(authority, certificate_pem)
    if isinstance(former, Refused):
        return former
    certificate, found = former
    try:
        raw = base64.b64decode(signature, validate=True)
        pki.public_key_of(certificate).verify(
            raw, LATE_CONTEXT + csr_pem.encode("utf-8", "surrogatepass"), ec.ECDSA(hashes.SHA256())
        )
    except (InvalidSignature, binascii.Error, ValueError):
        text = "the signature was not made over this request with the key of this certificate"
        return Refused(403, f"{text}. Enrol anew: {command_for(found.role, found.name)}", "E308")
    if now > found.not_after + LATE:
        text = (
            f"the certificate of the {found.role} {found.name} ended at {_when(found.not_after.timestamp())}, "
            f"which is more than {LATE.days} days ago"
        )
        return Refused(403, f"{text}. Enrol anew: {command_for(found.role, found.name)}", "E309")
    return found


def _former(authority: Authority, pem: str) -> tuple[x509.Certificate, Former] | Refused:
    try:
        certificate = pki.load_certificates(pem.encode())[0]
        key = pki.public_key_of(certificate)
    except (PkiError, UnicodeEncodeError) as error:
        return Refused(400, f"certificate_pem cannot be used: {error}", "E307")
    try:
        who = certified(certificate, authority)
    except Unidentified as fault:
        return Refused(403, f"{fault}. Join with a token: cis490-jobs hosts add NAME", "E307")
    return certificate, Former(who.role, who.name, who.serial, moment(who.not_after_s), pki.key_id(key))


def denied(role: str, name: str, reason: str) -> Refused:
    """The identity was revoked, and this certificate with it."""
    text = f"the {role} {name} was revoked: {reason}"
    return Refused(403, f"{text}. To let it in again: {command_for(role, name)}", "E317")


def not_in_manifest(name: str) -> Refused:
    """Its certificate would be good for nothing."""
    text = f"the manifest in force does not admit the host {name}; add it there, then: cis490-jobs reload"
    return Refused(403, text, "E316")


def same_key(asked: Request, former_key_id: str | None) -> Refused | None:
    """A renewal that keeps its key would let a stolen one live for ever."""
    if former_key_id != asked.key_id:
        return None
    text = (
        f"the {asked} asks for a new certificate for the key of its old one; make a new key for the request"
    )
    return Refused(400, text, "E311")


# -- the certificate


def grant(authority: Authority, asked: Request, serial: int, now: datetime) -> Grant | Refused:
    """What to issue; it never outlives its issuer."""
    now = now.astimezone(UTC).replace(microsecond=0)
    begins = authority.clients.certificate.not_valid_before_utc
    if now + pki.BACKDATED < begins:  # a Pi whose clock has not been set yet
        said, start = _when(now.timestamp()), _when(begins.timestamp())
        text = f"the receiver's clock says {said}, and its issuer began at {start}"
        return Refused(409, f"{text}. On the receiver: timedatectl", "E312")
    lifetime = min(CERTIFICATE_LIFE, authority.clients.certificate.not_valid_after_utc - now)
    if lifetime <= timedelta(0):
        ended = _when(authority.clients.certificate.not_valid_after_utc.timestamp())
        text = f"the receiver's issuer of client certificates (clients.pem) ended at {ended}"
        hint = "On the receiver: python -m training.fleet.ca rotate clients"
        return Refused(409, f"{text}. {hint}", "E312")
    return Grant(asked, serial, now, lifetime)


def issued(authority: Authority, given: Grant) -> dict[str, Any]:
    """Sign it: the answer of every endpoint that gives a certificate."""
    asked, fleet = given.request, authority.fleet
    leaf = pki.issue(
        authority.clients, asked.public_key, "clients", name=asked.name, now=given.now, lifetime=given.lifetime,
        uri=uri_of(fleet.name, asked.role, asked.name), serial=given.serial,
    )  # fmt: skip
    return {
        "certificate_pem": pki.chain_pem(leaf, authority.clients.certificate).decode("ascii"),
        "root_pem": pki.chain_pem(authority.root).decode("ascii"),
        "fleet": fleet.name,
        "role": asked.role,
        "name": asked.name,
        "url": fleet.workers_url if asked.role == "host" else fleet.operators_url,
        "join_url": fleet.join_url,
        "server_name": fleet.server_name,
        "not_after": given.not_after.timestamp(),
    }


def token_of(row: Mapping[str, Any]) -> Token:
    """A row of the table as a value."""
    return Token(**{key: row[key] for key in Token.__slots__})


def moment(wall_s: float) -> datetime:
    """Seconds since the epoch as UTC."""
    return datetime.fromtimestamp(wall_s, UTC)


class WrongSecrets:
    """How often somebody may guess wrongly: `PER_MINUTE` in all, from everywhere. A right answer is never held up.

    128 bits cannot be guessed; this keeps whoever tries from filling the log.
    """

    PER_MINUTE = 30

    def __init__(self) -> None:
        self._left, self._at_s = float(self.PER_MINUTE), 0.0

    def wait_s(self, now_s: float) -> float:
        """Note a wrong one, on a clock that does not go back. 0: say so; else for how long wrong ones are not told
        anything."""
        gained = max(0.0, now_s - self._at_s) * self.PER_MINUTE / 60
        self._left, self._at_s = min(float(self.PER_MINUTE), self._left + gained), now_s
        if self._left < 1:
            return (1 - self._left) * 60 / self.PER_MINUTE
        self._left -= 1
        return 0.0


def _revoke_command(token: Token) -> str:
    return f"cis490-jobs {'hosts' if token.role == 'host' else 'operators'} revoke {token.name}"


def _when(wall_s: float | None) -> str:
    return "an unknown time" if wall_s is None else f"{moment(wall_s):%Y-%m-%d %H:%M} UTC"


def _minutes(length: timedelta) -> int:
    return round(length.total_seconds() / 60)
