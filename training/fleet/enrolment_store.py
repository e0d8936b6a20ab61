"""Tokens, certificates and revocations in the queue's database. Each change is one part of the writer's transaction,
with its audit row.

The receiver asks for the decisions of `training.fleet.enrolment` in here, so that two machines with one token are
judged one after the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from training.fleet import enrolment
from training.fleet.enrolment import Former, Grant, Refused, Token

if TYPE_CHECKING:
    from training.fleet.queue import JobQueue
    from training.fleet.standing import Standing


def add_token(queue: JobQueue, token: Token, *, actor: str) -> None:
    """Remember a token that an operator is about to be shown."""
    with queue.atomic():
        now_s = queue.clock.wall_s()
        _forget(queue, now_s)
        queue.execute(
            "join_token_add", token_id=token.token_id, secret_sha256=token.secret_sha256, role=token.role,
            name=token.name, now=now_s, expires_at=token.expires_at,
        )  # fmt: skip
        _audit(queue, actor, "token", token.role, token.name, f"join token {token.token_id}")


def join(queue: JobQueue, standing: Standing, sha256: str, given: Grant) -> Refused | None:
    """Use the token for this certificate; None: the certificate may be signed."""
    with queue.atomic():
        asked = given.request
        token_id = enrolment.token_id(sha256)
        now = enrolment.moment(queue.clock.wall_s())
        fault = enrolment.judge_token(
            _token(queue.execute("join_token_get", token_id=token_id)), sha256, asked, now
        )
        if fault is not None:
            return fault
        used = queue.execute(
            "join_token_use", token_id=token_id, key_id=asked.key_id, now=queue.clock.wall_s()
        )
        assert used.rowcount == 1, "judged in this transaction"
        _issue(queue, standing, given, "join", f"with join token {token_id}")
        return None


def has_token(queue: JobQueue, sha256: str) -> bool:
    """Whether this is the secret of any token that was given out here. Reads the database."""
    token = _token(queue.read("join_token_get", token_id=enrolment.token_id(sha256)))
    return token is not None and enrolment.is_secret(token, sha256)


def renew(
    queue: JobQueue, standing: Standing, former: Former, given: Grant, *, late: bool = False
) -> Refused | None:
    """A new certificate for a new key, for whoever proved the former one; None: it may be signed."""
    with queue.atomic():
        asked = given.request
        # Not from memory, which learns of a revocation by the commit: this may be the same transaction.
        revoked = queue.execute(
            "identity_denied", role=former.role, name=former.name, serial=former.serial
        ).fetchone()
        if revoked is not None:
            return enrolment.denied(former.role, former.name, revoked["reason"])
        if former.role == "host" and not queue.is_admitted(former.name):
            return enrolment.not_in_manifest(former.name)
        fault = enrolment.same_key(asked, former.key_id)
        if fault is not None:
            return fault
        _issue(queue, standing, given, "late" if late else "renew", f"from certificate {former.serial}")
        return None


def revoke(queue: JobQueue, standing: Standing, role: str, name: str, reason: str, *, actor: str) -> int:
    """Deny every certificate that this identity has by now; how many of them were known and counted until then.

    Join tokens of it end too. Asking again is recorded again, and denies what was issued in between.
    """
    with queue.atomic():
        values = {"role": role, "name": name, "now": queue.clock.wall_s()}
        queue.execute("identity_revoke", reason=reason, **values)
        revoked = queue.execute("certificates_revoke", reason=reason, **values).rowcount
        queue.execute("join_tokens_end", **values)
        standing.changed()
        _audit(queue, actor, "revoke", role, name, reason)
        return revoked


def identities(queue: JobQueue) -> list[dict[str, Any]]:
    """Everybody who has a certificate, waits to join or was revoked. Reads the database."""
    now_s = queue.clock.wall_s()
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def entry(role: str, name: str) -> dict[str, Any]:
        empty: dict[str, Any] = {
            "role": role, "name": name, "serials": [], "not_after": None, "issued_at": None, "last_how": None,
            "revoked_at": None, "revoked_reason": None, "token_expires_at": None,
        }  # fmt: skip
        return found.setdefault((role, name), empty)

    for row in queue.read("certificates_all"):
        one = entry(row["role"], row["name"])
        one["issued_at"], one["last_how"] = row["issued_at"], row["how"]
        if row["revoked_at"] is None and row["not_after"] > now_s:
            one["serials"].append(row["serial"])
        if row["revoked_at"] is None:
            one["not_after"] = max(row["not_after"], one["not_after"] or 0.0)
    for row in queue.read("revoked_identities"):
        one = entry(row["role"], row["name"])
        one["revoked_at"], one["revoked_reason"] = row["revoked_at"], row["reason"]
    for row in queue.read("join_tokens_open", now=now_s):
        entry(row["role"], row["name"])["token_expires_at"] = row["expires_at"]
    for one in found.values():
        one["in_manifest"] = queue.is_admitted(one["name"]) if one["role"] == "host" else None
    return [found[key] for key in sorted(found)]


def _token(rows: Iterable[sqlite3.Row]) -> Token | None:
    row = next(iter(rows), None)
    return None if row is None else enrolment.token_of(dict(row))


def certificate_ends(queue: JobQueue) -> dict[str, float]:
    """Host -> when its certificate ends, seconds since the epoch; none that was revoked. Reads the database."""
    return {row["name"]: row["not_after"] for row in queue.read("certificates_ends")}


def _issue(queue: JobQueue, standing: Standing, given: Grant, how: str, detail: str) -> None:
    asked = given.request
    _forget(queue, given.now.timestamp())
    queue.execute("certificate_add", how=how, **given.row())
    standing.changed()  # who was revoked and let in again
    until = f"{given.not_after:%Y-%m-%d}"
    actor = f"{asked.role}:{asked.name}" if asked.role == "host" else str(asked)
    event = "join" if how == "join" else "renew"
    _audit(
        queue, actor, event, asked.role, asked.name, f"certificate {given.serial:x} until {until}, {detail}"
    )


def _forget(queue: JobQueue, now_s: float) -> None:
    before = now_s - enrolment.KEPT.total_seconds()
    queue.execute("certificates_forget", before=before)
    queue.execute("join_tokens_forget", before=before)


def _audit(queue: JobQueue, actor: str, event: str, role: str, name: str, detail: str) -> None:
    """About a host, under its name; about anybody else, among what concerns the whole fleet."""
    if role == "host":
        queue.audit_host(actor, event, name, detail)
    else:
        queue.audit_host(actor, event, "", f"{role} {name}: {detail}")
