"""HTTP endpoints: joining with a token, renewing, and what an operator does about identities."""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
from datetime import datetime

from cryptography import x509
from starlette.requests import Request
from starlette.responses import Response

from cis490.logs import event
from cis490.pki import certificates as pki
from cis490.pki.authority import Authority
from training.fleet import enrolment, enrolment_store, wire
from training.fleet.coordinator import Coordinator, log
from training.fleet.endpoint import Endpoint
from training.fleet.enrolment import Former, Grant, Refused, Token
from training.fleet.http_io import Problem, actor_of, answer, decode, one_header, peer_of, require_operator
from training.fleet.join_token import SECRET_BYTES, JoinToken
from training.fleet.lease_answers import coordinator_of
from training.fleet.peers import Peer
from training.fleet.wire_headers import HEADER_PEER_CERTIFICATE

MAX_BODY_BYTES = 32 * 1024
"""Of a request for a certificate: two PEM texts."""


async def enrol_ca(request: Request) -> Response:
    """The fleet's name and root certificate; whoever joins compares it with the token before it says anything."""
    authority = _authority(coordinator_of(request))
    return answer({"fleet": authority.fleet.name, "root_pem": pki.chain_pem(authority.root).decode("ascii")})


async def enrol_join(request: Request) -> Response:
    """A certificate for whoever has a join token; the key stays where it was made."""
    app = coordinator_of(request)
    authority = _authority(app)
    body = await decode(request, wire.JoinRequest, limit_bytes=MAX_BODY_BYTES)
    sha256 = enrolment.secret_sha256(body.secret)
    if not await asyncio.to_thread(enrolment_store.has_token, app.queue, sha256):
        return _wrong(app, "join", enrolment.unknown_token(body.role, body.name))
    given = await _granted(app, authority, body.role, body.name, body.csr_pem)
    fault = await app.write(lambda: enrolment_store.join(app.queue, app.standing, sha256, given))
    return await _signed(authority, given, fault, "join")


async def enrol_renew(request: Request) -> Response:
    """A new certificate for the identity of the client certificate, for a new key."""
    app = coordinator_of(request)
    authority = _authority(app)
    peer = peer_of(request)
    if not peer.serial:
        raise Problem(
            403, "only a client certificate can be renewed, and this request came with none", code="E313"
        )
    if one_header(request, "sec-fetch-site") or one_header(request, "origin"):
        # It shows its certificate to whatever page it is on; only our own programs renew.
        raise Problem(403, "a browser sent this: certificates are renewed by training.fleet.renewal alone")
    body = await decode(request, wire.RenewRequest, limit_bytes=MAX_BODY_BYTES)
    given = await _granted(app, authority, peer.role, peer.name, body.csr_pem)
    former = await asyncio.to_thread(_shown, one_header(request, HEADER_PEER_CERTIFICATE), peer)
    fault = await app.write(lambda: enrolment_store.renew(app.queue, app.standing, former, given))
    return await _signed(authority, given, fault, "renew")


async def enrol_renew_late(request: Request) -> Response:
    """The same for one whose certificate has ended: by proof of its former key."""
    app = coordinator_of(request)
    authority = _authority(app)
    body = await decode(request, wire.RenewLateRequest, limit_bytes=MAX_BODY_BYTES)
    former = await asyncio.to_thread(
        enrolment.judge_late, authority, body.certificate_pem, body.csr_pem, body.signature, _now(app)
    )
    if isinstance(former, Refused):
        return _wrong(app, "renew_late", former)
    given = await _granted(app, authority, former.role, former.name, body.csr_pem)
    fault = await app.write(lambda: enrolment_store.renew(app.queue, app.standing, former, given, late=True))
    return await _signed(authority, given, fault, "renew_late")


async def make_token(request: Request) -> Response:
    """A join token for this host, operator or reader: once, within 15 minutes."""
    app, role, name = coordinator_of(request), request.path_params["role"], request.path_params["name"]
    require_operator(request, app.operator_token)
    authority = _authority(app)
    _check_name(role, name)
    fleet = authority.fleet
    secret = secrets.token_urlsafe(SECRET_BYTES)
    sha256 = enrolment.secret_sha256(secret)
    expires = _now(app) + enrolment.TOKEN_LIFE
    token = Token(enrolment.token_id(sha256), sha256, role, name, expires.timestamp())
    actor = actor_of(request)
    await app.write(lambda: enrolment_store.add_token(app.queue, token, actor=actor))
    event(log, "identity.token", role=role, name=name, token_id=token.token_id)
    text = JoinToken(
        fleet.join_url, fleet.server_name, role, name, authority.root_fingerprint, secret
    ).encode()
    return answer({"token": text, "role": role, "name": name, "expires_at": token.expires_at})


async def revoke(request: Request) -> Response:
    """Let none of this identity's certificates count any longer."""
    app, role, name = coordinator_of(request), request.path_params["role"], request.path_params["name"]
    require_operator(request, app.operator_token)
    _authority(app)
    _check_name(role, name)
    body = await decode(request, wire.RevokeRequest, empty_ok=True)
    reason = " ".join(body.reason.split()) or wire.RevokeRequest().reason
    if len(reason) > enrolment.MAX_REASON_CHARS:
        text = f"reason has {len(reason)} characters, at most {enrolment.MAX_REASON_CHARS} are kept"
        raise Problem(400, text, ok=False)
    actor = actor_of(request)
    revoked = await app.write(
        lambda: enrolment_store.revoke(app.queue, app.standing, role, name, reason, actor=actor)
    )
    ended = app.open_requests.look()
    event(
        log,
        "identity.revoke",
        role=role,
        name=name,
        certificates=revoked,
        ended_requests=ended,
        reason=reason,
    )
    return answer({"ok": True, "role": role, "name": name, "revoked": revoked})


async def identities(request: Request) -> Response:
    """Who has a certificate, waits to join, or was revoked."""
    app = coordinator_of(request)
    return answer({"identities": await asyncio.to_thread(enrolment_store.identities, app.queue)})


# -- parts


def _wrong(app: Coordinator, how: str, fault: Refused) -> Response:
    """Of somebody who proved nothing: told why, as long as there are not too many of them."""
    wait_s = app.wrong_secrets.wait_s(app.queue.clock.now_s())
    if wait_s <= 0:
        event(log, "identity.refused", how=how, code=fault.code)
        return _problem(fault).response()
    text = "too many wrong join tokens and proofs came in the last minute; a right one is taken at any time"
    out = Problem(429, text, code="E315").response()
    out.headers["Retry-After"] = str(math.ceil(wait_s))
    return out


def _authority(app: Coordinator) -> Authority:
    if app.authority is None:
        raise Problem(409, "this receiver has no certificate authority: start it with --ca-dir", code="E314")
    return app.authority


async def _granted(app: Coordinator, authority: Authority, role: str, name: str, csr_pem: str) -> Grant:
    """What would be issued, if the proof is right. Checks a signature: on another thread."""

    def judge() -> Grant | Refused:
        asked = enrolment.read_request(role, name, csr_pem)
        if isinstance(asked, Refused):
            return asked
        return enrolment.grant(authority, asked, x509.random_serial_number(), _now(app))

    found = await asyncio.to_thread(judge)
    if isinstance(found, Refused):
        raise _problem(found)
    return found


async def _signed(authority: Authority, given: Grant, fault: Refused | None, how: str) -> Response:
    """The certificate, after what was decided about it is committed."""
    asked = given.request
    if fault is not None:
        event(log, "identity.refused", how=how, role=asked.role, name=asked.name, code=fault.code)
        raise _problem(fault)
    signed = await asyncio.to_thread(enrolment.issued, authority, given)
    event(log, "identity.issued", how=how, role=asked.role, name=asked.name, serial=f"{given.serial:x}")
    return answer(signed)


def _shown(header: str, peer: Peer) -> Former:
    """The certificate that this peer was recognised by (`access`), with its key."""
    certificate = x509.load_der_x509_certificate(base64.b64decode(header))
    key_id = pki.key_id(pki.public_key_of(certificate))
    return Former(peer.role, peer.name, peer.serial, enrolment.moment(peer.not_after_s), key_id)


def _check_name(role: str, name: str) -> None:
    fault = enrolment.name_fault(role, name)
    if fault is not None:
        raise _problem(fault)


def _problem(fault: Refused) -> Problem:
    return Problem(fault.status, fault.error, code=fault.code)


def _now(app: Coordinator) -> datetime:
    return enrolment.moment(app.queue.clock.wall_s())


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/enrol/ca", enrol_ca, "joiner"),
    Endpoint("POST", "/v1/enrol/join", enrol_join, "joiner", wire.JoinRequest),
    Endpoint("POST", "/v1/enrol/renew", enrol_renew, "member", wire.RenewRequest),
    Endpoint("POST", "/v1/enrol/renew-late", enrol_renew_late, "joiner", wire.RenewLateRequest),
    Endpoint("POST", "/v1/identity/{role}/{name}/token", make_token, "operator"),
    Endpoint("POST", "/v1/identity/{role}/{name}/revoke", revoke, "operator", wire.RevokeRequest),
    Endpoint("GET", "/v1/identities", identities, "reader"),
)
