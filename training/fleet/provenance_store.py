"""Provenance records at the receiver: made in the transaction that accepts a result, kept in the table `provenance`.

What is accepted while no signing key is at hand, or its certificate is not in force (it has ended; the clock is
wrong), gets its record later, when somebody first asks for it: signed then, nobody could verify it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from training.fleet import provenance, rows
from training.fleet.provenance import Facts, Recorded

if TYPE_CHECKING:
    from cis490.pki.authority import Authority
    from training.fleet.peers import Peer
    from training.fleet.queue import JobQueue
    from training.fleet.rows import AttemptRow, JobRow, Outcome


def complete(
    queue: JobQueue,
    authority: Authority | None,
    peer: Peer,
    job_id: str,
    host: str,
    *,
    manifest_digest: str | None,
    **result: Any,
) -> Outcome:
    """`JobQueue.complete`, and the record of what it accepted. In the writer's thread: both happen or neither.

    A repeated completion leaves the first one's record as it is.
    """
    before = queue.row(job_id)
    done = queue.complete(job_id, host, **result)
    if not done or done.row is None or authority is None or why_unsigned(authority, queue.clock.wall_s()):
        return done
    if before is None or before.status == "completed" or done.row.status != "completed":
        return done  # a repeat
    attempt = queue.attempt(done.row)
    seen = queue.matcher.seen.get(host)
    _add(
        queue, authority, done.row, attempt, "at completion",
        certificate_serial=peer.serial or None, certificate_sha256=peer.fingerprint or None,
        manifest_digest=manifest_digest, capability=seen.capability.to_dict() if seen else None,
    )  # fmt: skip
    return done


def why_unsigned(authority: Authority | None, now_s: float) -> str:
    """Why no record can be signed at this wall time, as half a sentence; "" when one can."""
    if authority is None:
        return "this receiver has no certificate authority: start it with --ca-dir"
    if authority.signing is None:
        return "this receiver has no signing key: put signing.pem and signing-key.pem into its --ca-dir"
    certificate = authority.signing.certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start.timestamp() <= now_s <= end.timestamp():
        return ""
    return (
        f"this receiver's signing certificate is in force from {start:%Y-%m-%d} to {end:%Y-%m-%d}: set its clock, or "
        "make a new one: python -m training.fleet.ca rotate signing, then restart the receiver"
    )


def add_missing(queue: JobQueue, authority: Authority, artifact_id: str) -> int:
    """Make the records that completed attempts with this artifact lack; how many. In the writer's thread."""
    missing = [
        rows.attempt_row(raw)
        for raw in queue.execute("provenance_missing", artifact_id=artifact_id).fetchall()
    ]
    for attempt in missing:
        row = queue.row(attempt.job_id)
        if row is not None:
            _add(queue, authority, row, attempt, "afterwards")
    return len(missing)


def envelopes(queue: JobQueue, artifact_id: str) -> tuple[list[str], bool]:
    """The records of an artifact, and whether completed attempts lack theirs. On a reading thread."""
    found = [raw["envelope"] for raw in queue.read("provenance_of", artifact_id=artifact_id)]
    return found, bool(queue.read("provenance_missing", artifact_id=artifact_id))


def _add(
    queue: JobQueue, authority: Authority, row: JobRow, attempt: AttemptRow, recorded: Recorded, **told: Any
) -> None:
    assert attempt.artifact_id is not None and attempt.ended_at is not None and authority.signing is not None
    sizes = {
        (raw["job_id"], raw["epoch"]): raw["size_bytes"]
        for raw in queue.execute("uploads_of", artifact_id=attempt.artifact_id)
    }
    facts = Facts(
        authority.fleet.name, row.job_id, row.name, row.kind, row.model, row.mode, row.spec,
        attempt.generation, attempt.epoch, attempt.artifact_id, attempt.host, attempt.claimed_at, attempt.ended_at,
        recorded, queue.clock.wall_s(), sizes.get((attempt.job_id, attempt.epoch)),
        dataset_id=attempt.dataset_id, trainer_digest=attempt.trainer_digest, receiver_version=_version(), **told,
    )  # fmt: skip
    envelope = provenance.sign(provenance.statement(facts), authority.signing)
    queue.execute(
        "provenance_add",
        job_id=row.job_id,
        epoch=attempt.epoch,
        artifact_id=attempt.artifact_id,
        envelope=envelope,
    )


def _version() -> str | None:
    try:
        return version("cis490")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return None
